<?php
/*
 * The verbs install and configure.
 *
 * Exit codes of Dolibarr's installer prove nothing: a locked one, one that cannot write conf.php and one that ran out of disk end with 0.
 * So what each step should have made is looked at.
 */

/**
 * Marks an installation of ours that has not come to its end.
 */
function infractl_mark()
{
	return infractl_documents().'/.infractl-install';
}

/**
 * Returns the version of the code, X.Y.Z, without running it.
 */
function infractl_code_version()
{
	$file = infractl_htdocs().'/filefunc.inc.php';
	$text = is_readable($file) ? (string) file_get_contents($file) : '';
	if (!preg_match("/define\(\s*'DOL_VERSION'\s*,\s*'([^']+)'/", $text, $found)) {
		throw new InfractlError('there is no Dolibarr in '.infractl_htdocs(), 'filefunc.inc.php must define DOL_VERSION');
	}
	return $found[1];
}

function infractl_install($input)
{
	$values = infractl_conf_input($input);
	foreach (array('url', 'db_host', 'db_name', 'db_user') as $key) {
		if ($values[$key] === '') {
			throw new InfractlError('missing value of '.$key);
		}
	}
	$login = infractl_text($input, 'admin_login', '/^[A-Za-z0-9._@-]{1,50}$/D', 'admin');
	$company = infractl_company_input($input);
	$modules = infractl_module_classes(infractl_list($input, 'modules'));
	foreach (array('db', 'admin', 'unique-id', 'cron-key') as $name) {
		if (!preg_match('/^[A-Za-z0-9]{12,128}$/D', infractl_secret($name))) {
			throw new InfractlError('the secret '.$name.' is not of 12 to 128 letters and digits', 'others break conf.php or shells somewhere');
		}
	}
	$version = infractl_code_version();
	infractl_check_tree();
	$wait = isset($input['wait']) ? max(0, min(600, (int) $input['wait'])) : 60;
	$db = infractl_step('database', function () use ($values, $wait) {
		return infractl_connect($values['db_host'], $values['db_port'] === '' ? 3306 : $values['db_port'], $values['db_user'], infractl_secret('db'),
			$values['db_name'], $wait);
	});
	infractl_alone($db);
	$existed = infractl_installed($db, $version);
	if (!$existed) {
		infractl_fresh($db, $values, $login, $version);
	}
	$answer = infractl_settle($db, $values, $company, $modules, $login);
	@unlink(infractl_mark());
	return array('existed' => $existed) + $answer;
}

/**
 * Checks what must be there before the first step, because the installer does not.
 */
function infractl_check_tree()
{
	$install = infractl_htdocs().'/install';
	foreach (array('step1.php', 'step2.php', 'step5.php') as $name) {
		if (!is_readable($install.'/'.$name)) {
			throw new InfractlError('the installer is missing: install/'.$name, 'the image holds no complete Dolibarr');
		}
	}
	if (file_exists($install.'/install.forced.php')) {
		throw new InfractlError('install/install.forced.php is present, and steers the installer another way', 'build the image without it');
	}
	foreach (array(dirname(infractl_conf_file()), infractl_documents()) as $dir) {
		if (!is_dir($dir) || !is_writable($dir)) {
			throw new InfractlError($dir.' is no folder that the user '.infractl_uid().' may write',
				'mount it writable for www-data (33)');
		}
	}
	if (is_file(infractl_htdocs().'/install.lock')) {
		throw new InfractlError('install.lock stands in the document root', 'build the image without it');
	}
}

/**
 * Reports whether a finished installation of this version stands there; anything else but an empty base is an error.
 */
function infractl_installed($db, $version)
{
	$charset = infractl_query($db, 'SELECT @@character_set_database AS c')[0]['c'];
	if ($charset !== 'utf8mb4') {
		throw new InfractlError('the database was created as '.$charset, 'create it as utf8mb4 with the collation utf8mb4_unicode_ci');
	}
	$tables = infractl_query($db, 'SELECT COUNT(*) AS n FROM information_schema.tables WHERE table_schema = DATABASE()')[0]['n'];
	$ours = is_file(infractl_mark());
	$locked = is_file(infractl_documents().'/install.lock');
	if ($tables == 0) {
		if ($locked && !$ours) {
			throw new InfractlError('the documents belong to an installed instance, and its database is empty', 'restore the database; nothing was changed');
		}
		return false;
	}
	$base = infractl_base($db);
	if ($base['version'] !== '' && !$base['not_installed'] && $locked && $base['admins']) {
		if ($base['version'] !== $version) {
			throw new InfractlError('the database is of version '.$base['version'].' and the code of '.$version, 'upgrade it; nothing was changed');
		}
		return true;
	}
	if ($ours) {
		throw new InfractlError('an installation was broken off half-way', 'drop the database, create it again, run install again', array('half_done' => true));
	}
	throw new InfractlError('the database holds '.$tables.' tables that no installation of infractl has made', 'install into an empty database');
}

/**
 * Returns what the base says of itself: version, whether it is being installed, its active administrators.
 */
function infractl_base($db)
{
	$base = array('version' => '', 'not_installed' => true, 'admins' => array());
	$have = infractl_query($db, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN ('llx_const', 'llx_user')");
	if (count($have) < 2) {
		return $base;
	}
	$base['not_installed'] = infractl_const($db, 'MAIN_NOT_INSTALLED') !== '';
	foreach (array('MAIN_VERSION_LAST_INSTALL', 'MAIN_VERSION_LAST_UPGRADE') as $name) {
		$value = infractl_const($db, $name);
		if ($value !== '' && ($base['version'] === '' || version_compare($value, $base['version']) > 0)) {
			$base['version'] = $value;
		}
	}
	foreach (infractl_query($db, 'SELECT login FROM llx_user WHERE admin = 1 AND statut = 1 ORDER BY entity, rowid') as $row) {
		$base['admins'][] = $row['login'];
	}
	return $base;
}

/**
 * Runs the three steps of the installer on an empty base.
 */
function infractl_fresh($db, $values, $login, $version)
{
	if (@file_put_contents(infractl_mark(), $version."\n") === false) {
		throw infractl_unwritten('the documents folder', infractl_documents(), 'see the rights of the volume documents');
	}
	@unlink(infractl_documents().'/install.lock');
	$conf = infractl_conf_file();
	@unlink($conf);
	$mask = umask(0077);
	$made = @file_put_contents($conf, '');
	umask($mask);
	if ($made === false || !is_writable($conf)) {
		throw infractl_unwritten('conf.php', dirname($conf), 'its folder must be mounted writable for www-data (33)');
	}
	infractl_run_step('step1', $values);
	$settings = infractl_conf_read();
	if (empty($settings['dolibarr_main_db_name'])) {
		throw new InfractlError('the first step of the installer wrote no conf.php');
	}
	// From here on everything that the installer encrypts is encrypted with this instance's own id.
	infractl_conf_write(infractl_conf_hardened($settings, $values));
	@chmod($conf, 0600); // steps 2 and 5 do nothing, and end with 0, where they cannot write it
	infractl_run_step('step2', $values);
	infractl_check_tables($db);
	infractl_run_step('step5', array('login' => $login));
	infractl_check_installed($db, $version, $login);
	@unlink('/tmp/dolibarr_install.log');
}

/**
 * Runs one step and looks at what it printed.
 */
function infractl_run_step($name, $task)
{
	infractl_step($name, function () use ($name, $task) {
		list($code, $output) = infractl_child('_step', array('name' => $name) + $task);
		$bad = array('install/upgrade pages have been disabled' => 'the installer is locked', 'YouTryInstallDisabledByFileLock' => 'the installer is locked',
			'is not writable' => 'conf.php cannot be written', 'ConfFileIsNotWritable' => 'conf.php cannot be written',
			'Failed to force character' => 'the character set is refused', 'class="error"' => 'the installer reports an error',
			'Error DB_ERROR' => 'a statement failed');
		foreach ($bad as $text => $reason) {
			if (strpos($output, $text) !== false) {
				throw new InfractlError($name.': '.$reason.': '.infractl_tail($output));
			}
		}
		if ($code !== 0) {
			throw new InfractlError($name.' ended with code '.$code.': '.infractl_tail($output));
		}
	});
}

/**
 * Checks that the second step made every table: one that ran out of disk ends with 0.
 */
function infractl_check_tables($db)
{
	$have = array();
	foreach (infractl_query($db, 'SELECT table_name AS t FROM information_schema.tables WHERE table_schema = DATABASE()') as $row) {
		$have[$row['t']] = true;
	}
	$missing = array();
	foreach (glob(infractl_htdocs().'/install/mysql/tables/llx_*.sql') ?: array() as $file) {
		$name = basename($file, '.sql');
		if (strpos($name, '-') !== false || substr($name, -4) === '.key') {
			continue; // of a module that is not on, or keys
		}
		// The name of a file is not always that of its table.
		$found = preg_match('/^\s*create\s+table\s+(?:if\s+not\s+exists\s+)?`?(\w+)/im', (string) file_get_contents($file), $match);
		if ($found && !isset($have[$match[1]])) {
			$missing[] = $match[1];
		}
	}
	if (!$have || $missing) {
		throw new InfractlError('step2 made '.count($have).' tables, without '.implode(', ', array_slice($missing, 0, 5)), 'is the disk of the database full?');
	}
}

function infractl_check_installed($db, $version, $login)
{
	$base = infractl_base($db);
	$user = infractl_query($db, 'SELECT pass_crypted FROM llx_user WHERE login = ?', array($login));
	$checks = array(
		'install.lock was not written' => is_file(infractl_documents().'/install.lock'),
		'MAIN_VERSION_LAST_INSTALL is '.$base['version'].' and not '.$version => infractl_const($db, 'MAIN_VERSION_LAST_INSTALL') === $version,
		'MAIN_NOT_INSTALLED is still there' => !$base['not_installed'],
		'the administrator '.$login.' was not made' => in_array($login, $base['admins'], true),
		'passwords are not hashed by password_hash' => infractl_const($db, 'MAIN_SECURITY_HASH_ALGO') === 'password_hash'
			&& $user && password_verify(infractl_secret('admin'), $user[0]['pass_crypted']),
	);
	foreach ($checks as $failure => $good) {
		if (!$good) {
			throw new InfractlError('the installer ended well, but '.$failure);
		}
	}
}

/**
 * Brings an installed base to what infractl wants: conf.php, identity, company, modules, cron key. It may be repeated at will.
 */
function infractl_settle($db, $values, $company, $modules, $login)
{
	$settings = infractl_conf_read();
	$identity = infractl_step('identity', function () use ($db, $settings) {
		return infractl_identity($db, $settings);
	});
	infractl_step('conf', function () use ($settings, $values) {
		infractl_conf_write(infractl_conf_hardened($settings, $values));
	});
	if ($identity) {
		infractl_tidy($db);
	}
	foreach (array('/usr/bin/mariadb-dump', '/usr/bin/mysqldump') as $dump) {
		if (is_file($dump)) {
			infractl_set_const($db, 'SYSTEMTOOLS_MYSQLDUMP', $dump); // the default name is gone in newer clients
			break;
		}
	}
	array_unshift($modules, 'modCron');
	infractl_step('modules', function () use ($company, $modules, $login) {
		infractl_run_inside(array('login' => $login, 'company' => $company, 'enable' => $modules, 'disable' => array(), 'cron_key' => true));
	});
	return infractl_state($db);
}

/**
 * Removes what a copy of a template must not inherit.
 */
function infractl_tidy($db)
{
	foreach (array('llx_session', 'llx_events', 'llx_oauth_token', 'llx_oauth_state') as $table) {
		if (infractl_query($db, "SHOW TABLES LIKE '".$table."'")) {
			infractl_query($db, 'DELETE FROM '.$table);
		}
	}
	$documents = infractl_documents();
	foreach (array_merge(glob($documents.'/*.log') ?: array(), glob($documents.'/*/temp/*') ?: array()) as $file) {
		if (is_file($file)) {
			@unlink($file);
		}
	}
}

function infractl_configure($input)
{
	$values = infractl_conf_input($input);
	$login = infractl_text($input, 'admin_login', '/^[A-Za-z0-9._@-]{1,50}$/D');
	$company = infractl_company_input($input);
	$modules = infractl_module_classes(infractl_list($input, 'modules'));
	$settings = infractl_conf_read();
	foreach (array('db_host', 'db_port', 'db_name', 'db_user') as $key) {
		if ($values[$key] !== '') {
			$settings['dolibarr_main_'.$key] = $values[$key];
		}
	}
	$db = infractl_step('database', function () use ($settings) {
		return infractl_conf_connect($settings, 30);
	});
	infractl_alone($db);
	$base = infractl_base($db);
	$version = infractl_code_version();
	if ($base['version'] !== $version || $base['not_installed']) {
		throw new InfractlError('the database is of version "'.$base['version'].'" and the code of '.$version, 'install or upgrade it first');
	}
	return infractl_settle($db, $values, $company, $modules, $login);
}

/**
 * Checks name, country, language and time zone of the customer. Nothing given means: leave it.
 */
function infractl_company_input($input)
{
	$languages = array('fr' => 'fr_FR', 'en' => 'en_US');
	$language = infractl_text($input, 'language', '/^[a-z]{2}(_[A-Z]{2})?$/D');
	$zone = infractl_text($input, 'timezone', '#^[A-Za-z0-9_+/-]{1,64}$#D');
	if ($zone !== '' && !in_array($zone, timezone_identifiers_list(DateTimeZone::ALL_WITH_BC), true)) {
		throw new InfractlError('unknown time zone '.$zone, 'such as Europe/Paris');
	}
	return array(
		'name' => infractl_text($input, 'company', '/^[^\x00-\x1f<>]{1,120}$/Du'),
		'country' => infractl_text($input, 'country', '/^[A-Z]{2}$/D'),
		'language' => isset($languages[$language]) ? $languages[$language] : $language,
		'timezone' => $zone,
	);
}
