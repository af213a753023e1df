create table llx_facturedet
(
  rowid  integer AUTO_INCREMENT PRIMARY KEY,
  ref    varchar(30)
)ENGINE=innodb;
