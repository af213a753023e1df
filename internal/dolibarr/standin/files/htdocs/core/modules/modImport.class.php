<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modImport extends DolibarrModules
{
	public $rights = array(1251 => 'Import');
}
