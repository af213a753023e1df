<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modAccounting extends DolibarrModules
{
	public $rights = array(50401 => 'Use accounting');
	public $needs_country = true;
}
