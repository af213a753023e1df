insert into llx_c_country (rowid, code, label, active) values (1, 'FR', 'France', 1);
insert into llx_c_country (rowid, code, label, active) values (2, 'BE', 'Belgium', 1);
insert into llx_c_country (rowid, code, label, active) values (5, 'DE', 'Germany', 1);
insert into llx_c_country (rowid, code, label, active) values (6, 'CH', 'Switzerland', 1);
