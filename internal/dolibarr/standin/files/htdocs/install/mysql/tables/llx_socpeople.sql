create table llx_socpeople
(
  rowid  integer AUTO_INCREMENT PRIMARY KEY,
  ref    varchar(30)
)ENGINE=innodb;
