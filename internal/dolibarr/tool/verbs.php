<?php
/*
 * The verbs password, modules, status and cron.
 */

/**
 * Sets the administrator's password from the secret admin, and ends their sessions.
 */
function infractl_password($input)
{
	$login = infractl_text($input, 'admin_login', '/^[A-Za-z0-9._@-]{1,50}$/D', 'admin');
	$password = infractl_secret('admin');
	$db = infractl_conf_connect(infractl_conf_read(), 10);
	infractl_alone($db);
	return infractl_step('password', function () use ($db, $login, $password) {
		$users = infractl_query($db, 'SELECT rowid FROM llx_user WHERE login = ? AND admin = 1', array($login));
		if (count($users) !== 1) {
			$known = infractl_base($db)['admins'];
			throw new InfractlError('there is no administrator '.$login, $known ? 'active administrators: '.implode(', ', array_slice($known, 0, 10)) : '');
		}
		$set = 'pass_crypted = ?, pass = NULL, pass_temp = NULL';
		if (infractl_query($db, "SHOW COLUMNS FROM llx_user LIKE 'flagdelsessionsbefore'")) {
			$set .= ', flagdelsessionsbefore = UTC_TIMESTAMP()';
		}
		$db->begin_transaction();
		// Without this constant Dolibarr goes on with an old algorithm at the next change. One with old hashes understands both.
		infractl_set_const($db, 'MAIN_SECURITY_HASH_ALGO', 'password_hash');
		infractl_query($db, 'UPDATE llx_user SET '.$set.' WHERE rowid = ?', array(password_hash($password, PASSWORD_BCRYPT), $users[0]['rowid']));
		$db->commit();
		$now = infractl_query($db, 'SELECT pass_crypted FROM llx_user WHERE rowid = ?', array($users[0]['rowid']));
		if (!password_verify($password, $now[0]['pass_crypted'])) {
			throw new InfractlError('the password was not stored');
		}
		return array('version' => infractl_code_version());
	});
}

/**
 * Returns the class names of modules by their names, with or without mod and in any case. One that the code has not is an error before
 * anything is changed: for Dolibarr it is a fatal one, in the middle.
 */
function infractl_module_classes($names)
{
	$known = array();
	foreach (infractl_module_files() as $class) {
		$known[strtolower($class)] = $class;
	}
	$classes = array();
	foreach ($names as $name) {
		$key = strtolower($name);
		$key = isset($known[$key]) ? $key : 'mod'.$key;
		if (!isset($known[$key])) {
			throw new InfractlError('there is no module '.$name, 'external modules belong into custom/ first');
		}
		$classes[] = $known[$key];
	}
	return array_values(array_unique($classes));
}

function infractl_module_files()
{
	$classes = array();
	$htdocs = infractl_htdocs();
	foreach (array($htdocs.'/core/modules/mod*.class.php', $htdocs.'/custom/*/core/modules/mod*.class.php') as $pattern) {
		foreach (glob($pattern) ?: array() as $file) {
			$classes[] = basename($file, '.class.php');
		}
	}
	return array_values(array_unique($classes));
}

/**
 * Returns what is active, as class names without mod, sorted.
 */
function infractl_active($db)
{
	$on = array();
	foreach (infractl_query($db, "SELECT name FROM llx_const WHERE name LIKE 'MAIN\\\\_MODULE\\\\_%' AND value NOT IN ('', '0')") as $row) {
		$on[$row['name']] = true;
	}
	$active = array();
	foreach (infractl_module_files() as $class) {
		if (isset($on['MAIN_MODULE_'.strtoupper(substr($class, 3))])) {
			$active[] = substr($class, 3);
		}
	}
	sort($active);
	return $active;
}

function infractl_modules($input)
{
	$enable = infractl_module_classes(infractl_list($input, 'enable'));
	$disable = infractl_module_classes(infractl_list($input, 'disable'));
	if (array_intersect($enable, $disable)) {
		throw new InfractlError('the same module is to be enabled and disabled');
	}
	$db = infractl_conf_connect(infractl_conf_read(), 10);
	infractl_alone($db);
	infractl_step('modules', function () use ($enable, $disable) {
		infractl_run_inside(array('login' => '', 'company' => array(), 'enable' => $enable, 'disable' => $disable, 'cron_key' => false));
	});
	$state = infractl_state($db);
	foreach ($enable as $class) {
		if (!in_array(substr($class, 3), $state['modules'], true)) {
			throw new InfractlError('the module '.substr($class, 3).' reports success and is not active');
		}
	}
	foreach ($disable as $class) {
		if (in_array(substr($class, 3), $state['modules'], true)) {
			throw new InfractlError('the module '.substr($class, 3).' is still active');
		}
	}
	return $state;
}

function infractl_status($input)
{
	$wait = isset($input['wait']) ? max(0, min(60, (int) $input['wait'])) : 0;
	return infractl_state(infractl_conf_connect(infractl_conf_read(), $wait));
}

/**
 * Returns the state of code and base. Code newer than the base sends every visitor to the installer; code older than the base shows a
 * login page as if all were well, and must never be started.
 */
function infractl_state($db)
{
	$settings = infractl_conf_read();
	$code = infractl_code_version();
	$base = infractl_base($db);
	$order = $base['version'] === '' ? 0 : version_compare($code, $base['version']);
	$charset = isset($settings['dolibarr_main_db_character_set']) ? $settings['dolibarr_main_db_character_set'] : '';
	$documents = infractl_documents();
	return array(
		'version' => $code,
		'base_version' => $base['version'],
		'not_installed' => $base['not_installed'],
		'upgrade_needed' => $order > 0,
		'downgraded' => $order < 0,
		'locked' => is_file($documents.'/install.lock'),
		'unlocked' => is_file($documents.'/upgrade.unlock'),
		'charset' => $charset,
		'charset_refused' => !in_array($charset, array('utf8', 'utf8mb4'), true),
		'url' => isset($settings['dolibarr_main_url_root']) ? $settings['dolibarr_main_url_root'] : '',
		'php' => PHP_VERSION,
		'modules' => $base['version'] === '' ? array() : infractl_active($db),
	);
}

/**
 * Runs the scheduled jobs every five minutes until the file INFRACTL_STOP is there (see cron.sh); with once it runs them one time.
 */
function infractl_cron($input)
{
	$every = isset($input['every']) ? max(1, min(86400, (int) $input['every'])) : 300;
	$stop = (string) getenv('INFRACTL_STOP');
	$stopped = function () use ($stop) {
		clearstatcache();
		return $stop !== '' && file_exists($stop);
	};
	while (true) {
		$start = microtime(true);
		$run = infractl_cron_once();
		infractl_line(array('step' => 'cron', 'seconds' => round(microtime(true) - $start, 3)) + $run);
		if (!empty($input['once'])) {
			return $run;
		}
		$end = $start + $every;
		while (!$stopped() && microtime(true) < $end) {
			usleep(500000);
		}
		if ($stopped()) {
			return array('stopped' => true);
		}
	}
}

/**
 * Runs the jobs that are due. The exit code says little (one bad job makes it 1 though the others ran), so the jobs themselves are asked.
 */
function infractl_cron_once()
{
	try {
		infractl_secret('cron-key');
		$db = infractl_conf_connect(infractl_conf_read(), 30);
		$since = infractl_query($db, 'SELECT NOW() AS t')[0]['t'];
		$db->close();
		list($code, $output) = infractl_child('_step', array('name' => 'cron'));
		$db = infractl_conf_connect(infractl_conf_read(), 30);
		$failed = array();
		$ran = 0;
		foreach (infractl_query($db, 'SELECT label, lastresult FROM llx_cronjob WHERE datelastrun >= ? - INTERVAL 1 DAY', array($since)) as $job) {
			$ran++;
			if ($job['lastresult'] !== null && $job['lastresult'] !== '' && $job['lastresult'] !== '0') {
				$failed[] = $job['label'];
			}
		}
		$run = array('code' => $code, 'ran_today' => $ran, 'failed' => array_slice($failed, 0, 20));
		return $code === 0 ? $run : $run + array('text' => infractl_tail($output));
	} catch (InfractlError $e) {
		return array('code' => 255, 'ran_today' => 0, 'failed' => array(), 'text' => infractl_redact($e->getMessage()));
	}
}
