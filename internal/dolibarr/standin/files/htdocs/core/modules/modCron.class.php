<?php
include_once DOL_DOCUMENT_ROOT.'/core/modules/DolibarrModules.class.php';
class modCron extends DolibarrModules
{
	public $rights = array(23001 => 'Read scheduled jobs');
	public $const = array('CRON_KEY' => '');
	public $tables = array("INSERT INTO llx_cronjob (label, jobtype, datenextrun, status) SELECT 'Purge of temporary files', 'method', '2000-01-01', 1"
		.' FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM llx_cronjob)');
}
