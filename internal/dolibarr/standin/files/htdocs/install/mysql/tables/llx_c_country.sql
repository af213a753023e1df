create table llx_c_country
(
  rowid   integer PRIMARY KEY,
  code    varchar(2) NOT NULL,
  label   varchar(128) NOT NULL,
  active  tinyint DEFAULT 1 NOT NULL
)ENGINE=innodb;
