create table llx_user
(
  rowid         integer AUTO_INCREMENT PRIMARY KEY,
  entity        integer DEFAULT 1 NOT NULL,
  login         varchar(50) NOT NULL,
  pass          varchar(128),
  pass_crypted  varchar(128),
  pass_temp     varchar(128),
  api_key       varchar(128),
  lastname      varchar(50),
  email         varchar(255),
  admin         smallint DEFAULT 0,
  statut        integer DEFAULT 1,
  datec         datetime,
  idpers1       varchar(128),
  idpers2       varchar(128),
  idpers3       varchar(128)@USER_COLUMNS@
)ENGINE=innodb;
