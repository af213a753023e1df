create table llx_events
(
  rowid        integer AUTO_INCREMENT PRIMARY KEY,
  type         varchar(32) NOT NULL,
  ip           varchar(250),
  description  varchar(250) NOT NULL
)ENGINE=innodb;
