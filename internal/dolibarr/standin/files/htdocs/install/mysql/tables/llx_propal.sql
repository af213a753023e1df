create table llx_propal
(
  rowid  integer AUTO_INCREMENT PRIMARY KEY,
  ref    varchar(30)
)ENGINE=innodb;
