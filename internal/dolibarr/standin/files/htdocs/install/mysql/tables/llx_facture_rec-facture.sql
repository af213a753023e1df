create table llx_facture_rec_of_module (rowid integer PRIMARY KEY)ENGINE=innodb;
