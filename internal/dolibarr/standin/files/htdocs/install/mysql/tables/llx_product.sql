create table llx_product
(
  rowid  integer AUTO_INCREMENT PRIMARY KEY,
  ref    varchar(30)
)ENGINE=innodb;
