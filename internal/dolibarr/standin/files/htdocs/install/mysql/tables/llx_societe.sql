create table llx_societe
(
  rowid  integer AUTO_INCREMENT PRIMARY KEY,
  nom    varchar(128),
  email  varchar(128)@SOCIETE_COLUMNS@
)ENGINE=innodb;
