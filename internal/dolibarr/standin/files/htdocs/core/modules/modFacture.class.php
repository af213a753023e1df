<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modFacture extends DolibarrModules
{
	public $rights = array(11 => 'Read invoices', 12 => 'Create invoices');
	public $depends = array('modSociete');
	public $tables = array('CREATE TABLE IF NOT EXISTS llx_facture_rec (rowid integer AUTO_INCREMENT PRIMARY KEY, titre varchar(200) NOT NULL) ENGINE=innodb');
}
