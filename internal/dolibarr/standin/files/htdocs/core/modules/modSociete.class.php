<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modSociete extends DolibarrModules
{
	public $rights = array(121 => 'Read third parties', 122 => 'Create third parties');
	public $requiredby = array('modFacture');
}
