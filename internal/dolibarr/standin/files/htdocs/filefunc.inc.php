<?php
// A stand-in for Dolibarr, for tests: the same installer, upgrade and login contract, and nothing else of it.
if (!defined('DOL_VERSION')) {
	define('DOL_VERSION', '@VERSION@');
}
if (defined('DOL_INC_FOR_VERSION_ERROR')) {
	return;
}
$conffile = 'conf/conf.php';
$result = @include_once $conffile;
if (!$result && !empty($_SERVER['REQUEST_METHOD'])) {
	header('Location: install/index.php');
	exit;
}
define('DOL_DOCUMENT_ROOT', isset($dolibarr_main_document_root) ? $dolibarr_main_document_root : '');
if (!file_exists(DOL_DOCUMENT_ROOT.'/core/lib/functions.lib.php')) {
	print "Error: Dolibarr config file content seems to be not correctly defined.<br>\n";
	exit(1);
}
define('DOL_DATA_ROOT', $dolibarr_main_data_root);
define('DOL_URL_ROOT', '');
define('MAIN_DB_PREFIX', empty($dolibarr_main_db_prefix) ? 'llx_' : $dolibarr_main_db_prefix);
if (!empty($dolibarr_main_prod)) {
	ini_set('display_errors', 'Off');
}
include_once DOL_DOCUMENT_ROOT.'/core/lib/functions.lib.php';
include_once DOL_DOCUMENT_ROOT.'/core/lib/security.lib.php';
