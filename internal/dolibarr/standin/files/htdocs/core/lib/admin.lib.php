<?php
function dolibarr_set_const($db, $name, $value, $type = 'chaine', $visible = 0, $note = '', $entity = 1)
{
	global $conf;
	if (!$db->query('DELETE FROM '.MAIN_DB_PREFIX.'const WHERE name = '.$db->encrypt($name).' AND entity = '.((int) $entity))) {
		return -1;
	}
	if ((string) $value !== '') {
		$stored = preg_match('/(_KEY|_PASS|_PASSWORD|_SECRET|_SECURITY_TOKEN)$/', $name) ? dolEncrypt($value) : $value;
		if (!$db->query('INSERT INTO '.MAIN_DB_PREFIX.'const (name, value, type, visible, note, entity) VALUES ('.$db->encrypt($name).', '
			.$db->encrypt($stored).", '".$db->escape($type)."', ".((int) $visible).", '".$db->escape($note)."', ".((int) $entity).')')) {
			return -1;
		}
	}
	$conf->global->$name = $value;
	return 1;
}

function dol_module_file($class)
{
	foreach (array_merge(array(DOL_DOCUMENT_ROOT.'/core/modules/'), glob(DOL_DOCUMENT_ROOT.'/custom/*/core/modules/') ?: array()) as $dir) {
		if (is_file($dir.$class.'.class.php')) {
			return $dir.$class.'.class.php';
		}
	}
	return '';
}

// An unknown class is a fatal error, as in Dolibarr.
function activateModule($value, $withdeps = 1)
{
	global $db, $conf;
	$file = dol_module_file($value);
	if ($file !== '') {
		include_once $file;
	}
	$module = new $value($db);
	$result = array('nbmodules' => 0, 'errors' => array(), 'nbperms' => 0);
	if (getDolGlobalString($module->const_name)) {
		return $result;
	}
	if (!empty($module->needs_country) && getDolGlobalString('MAIN_INFO_SOCIETE_COUNTRY') === '') {
		$result['errors'][] = 'ErrorCountryRequired';
		return $result;
	}
	foreach ($withdeps ? $module->depends : array() as $needed) {
		$more = activateModule($needed);
		$result['nbmodules'] += $more['nbmodules'];
		$result['errors'] = array_merge($result['errors'], $more['errors']);
	}
	if ($result['errors'] || $module->init() <= 0) {
		$result['errors'][] = $module->error;
		return $result;
	}
	$result['nbmodules']++;
	$result['nbperms'] += count($module->rights);
	return $result;
}

function unActivateModule($value, $requiredby = 1)
{
	global $db;
	$file = dol_module_file($value);
	if ($file === '') {
		return 'ErrorModuleNotFound';
	}
	include_once $file;
	$module = new $value($db);
	$module->remove();
	foreach ($requiredby ? $module->requiredby : array() as $other) {
		unActivateModule($other);
	}
	return '';
}
