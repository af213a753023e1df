<?php
require_once 'filefunc.inc.php';
require_once DOL_DOCUMENT_ROOT.'/core/class/conf.class.php';
require_once DOL_DOCUMENT_ROOT.'/core/class/translate.class.php';
require_once DOL_DOCUMENT_ROOT.'/core/db/mysqli.class.php';
require_once DOL_DOCUMENT_ROOT.'/user/class/user.class.php';
require_once DOL_DOCUMENT_ROOT.'/societe/class/societe.class.php';

$conf = new Conf();
$conf->file->instance_unique_id = empty($dolibarr_main_instance_unique_id) ? '' : $dolibarr_main_instance_unique_id;
$conf->file->dolcrypt_key = empty($dolibarr_main_dolcrypt_key) ? '' : $dolibarr_main_dolcrypt_key;
$langs = new Translate('', $conf);
$db = new DoliDBMysqli($dolibarr_main_db_host, $dolibarr_main_db_user, $dolibarr_main_db_pass, $dolibarr_main_db_name,
	empty($dolibarr_main_db_port) ? 3306 : (int) $dolibarr_main_db_port, $dolibarr_main_db_character_set);
if ($db->error) {
	dol_print_error($db);
	exit;
}
$user = new User($db);
$conf->setValues($db);
$mysoc = new Societe($db);
$mysoc->setMysoc($conf);
$hookmanager = null;
