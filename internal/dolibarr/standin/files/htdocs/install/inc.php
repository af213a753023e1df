<?php
// What every page of the installer begins with: the configuration, and the lock.
define('DOL_INC_FOR_VERSION_ERROR', '1');
require_once '../filefunc.inc.php';
define('DOL_DOCUMENT_ROOT', '..');
require_once DOL_DOCUMENT_ROOT.'/core/class/conf.class.php';
require_once DOL_DOCUMENT_ROOT.'/core/class/translate.class.php';
require_once DOL_DOCUMENT_ROOT.'/core/lib/functions.lib.php';
require_once DOL_DOCUMENT_ROOT.'/core/lib/security.lib.php';
require_once DOL_DOCUMENT_ROOT.'/core/lib/admin.lib.php';
require_once DOL_DOCUMENT_ROOT.'/core/db/mysqli.class.php';
$conf = new Conf();
$conffile = '../conf/conf.php';

if (!defined('DONOTLOADCONF') && file_exists($conffile) && filesize($conffile) > 8) {
	include_once $conffile;
	$conf->file->instance_unique_id = empty($dolibarr_main_instance_unique_id) ? '' : $dolibarr_main_instance_unique_id;
	$conf->file->dolcrypt_key = empty($dolibarr_main_dolcrypt_key) ? '' : $dolibarr_main_dolcrypt_key;
}
define('MAIN_DB_PREFIX', empty($dolibarr_main_db_prefix) ? 'llx_' : $dolibarr_main_db_prefix);
define('DOL_DATA_ROOT', isset($dolibarr_main_data_root) ? $dolibarr_main_data_root : DOL_DOCUMENT_ROOT.'/../documents');

// Locked: a text, and the exit code 0. Only 18 and newer know the file that unlocks an upgrade.
if (@file_exists(DOL_DATA_ROOT.'/install.lock') || @file_exists(DOL_DOCUMENT_ROOT.'/install.lock')) {
	$unlocked = (int) DOL_VERSION >= 18 && defined('ALLOWED_IF_UPGRADE_UNLOCK_FOUND')
		&& (@file_exists(DOL_DATA_ROOT.'/upgrade.unlock') || @file_exists(DOL_DOCUMENT_ROOT.'/upgrade.unlock'));
	if (!$unlocked) {
		print 'You tried to access install or upgrade pages, and the application is installed already. The install/upgrade pages have been disabled'
			." for security (by the existence of a lock file <b>install.lock</b> in the dolibarr documents directory).<br>\n";
		exit;
	}
}

function step_database()
{
	global $dolibarr_main_db_host, $dolibarr_main_db_user, $dolibarr_main_db_pass, $dolibarr_main_db_name, $dolibarr_main_db_port, $dolibarr_main_db_character_set;
	if ((int) DOL_VERSION >= 22 || $dolibarr_main_db_character_set !== 'utf8mb3') {
		$charset = $dolibarr_main_db_character_set; // 22 and newer stop at a refused one, with the exit code 0
	} else {
		$charset = 'utf8'; // older installers do not look at it: the pages will
	}
	return new DoliDBMysqli($dolibarr_main_db_host, $dolibarr_main_db_user, $dolibarr_main_db_pass, $dolibarr_main_db_name, $dolibarr_main_db_port, $charset);
}

// Runs a file of statements. Errors that say that something is there already, or is not there any more, are accepted by design.
function run_sql($db, $file)
{
	$text = preg_replace('/^--.*$/m', '', (string) file_get_contents($file));
	$number = 0;
	$errors = 0;
	foreach (preg_split('/;\s*(\r?\n|$)/', $text) as $sql) {
		if (trim($sql) === '') {
			continue;
		}
		$number++;
		$sql = str_replace('__ENTITY__', '1', $sql);
		if (!$db->query($sql) && !in_array($db->errno(), array('DB_ERROR_1050', 'DB_ERROR_1060', 'DB_ERROR_1061', 'DB_ERROR_1062', 'DB_ERROR_1091', 'DB_ERROR_1146'), true)) {
			$errors++;
			print 'Error '.$db->errno().' (Req '.$number.'): '.htmlspecialchars($db->lasterror())."<br>\n";
		}
	}
	return $errors;
}
