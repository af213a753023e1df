create table llx_rights_def
(
  id       integer,
  libelle  varchar(255),
  module   varchar(64),
  entity   integer DEFAULT 1 NOT NULL,
  PRIMARY KEY (id, entity)
)ENGINE=innodb;
