<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modApi extends DolibarrModules
{
	public $rights = array(2610 => 'Make API keys');
}
