create table llx_facture
(
  rowid   integer AUTO_INCREMENT PRIMARY KEY,
  ref     varchar(30) NOT NULL,
  fk_soc  integer NOT NULL,
  total   double(24,8) DEFAULT 0
)ENGINE=innodb;
