create table @PRELEVEMENT@
(
  rowid       integer AUTO_INCREMENT PRIMARY KEY,
  fk_facture  integer
)ENGINE=innodb;
