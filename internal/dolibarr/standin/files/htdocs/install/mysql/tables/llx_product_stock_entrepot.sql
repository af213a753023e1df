create table llx_product_warehouse_properties
(
  rowid       integer AUTO_INCREMENT PRIMARY KEY,
  fk_product  integer NOT NULL
)ENGINE=innodb;
