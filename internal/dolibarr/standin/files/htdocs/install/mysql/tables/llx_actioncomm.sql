create table llx_actioncomm
(
  rowid  integer AUTO_INCREMENT PRIMARY KEY,
  ref    varchar(30)
)ENGINE=innodb;
