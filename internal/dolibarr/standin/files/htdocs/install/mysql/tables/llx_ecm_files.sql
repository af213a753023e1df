create table llx_ecm_files
(
  rowid     integer AUTO_INCREMENT PRIMARY KEY,
  filename  varchar(255) NOT NULL,
  filepath  varchar(255) NOT NULL
)ENGINE=innodb;
