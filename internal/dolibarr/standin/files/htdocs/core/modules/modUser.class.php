<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modUser extends DolibarrModules
{
	public $rights = array(251 => 'Read other users', 252 => 'Create users');
}
