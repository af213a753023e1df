ALTER TABLE @PRELEVEMENT@ ADD CONSTRAINT fk_prelevement_facture_fk_facture FOREIGN KEY (fk_facture) REFERENCES llx_facture (rowid);
