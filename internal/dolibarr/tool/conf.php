<?php
/*
 * conf.php, which infractl writes whole, and the identity of an instance: the unique id that stored secrets are encrypted with.
 */

function infractl_conf_file()
{
	return infractl_htdocs().'/conf/conf.php';
}

/**
 * Returns the dolibarr_ settings of conf.php; none when there is no file or an empty one.
 */
function infractl_conf_read()
{
	$infractl_file = infractl_conf_file();
	if (!is_file($infractl_file) || filesize($infractl_file) <= 8) {
		return array();
	}
	if (!is_readable($infractl_file)) {
		throw new InfractlError('conf.php cannot be read', 'it belongs to the user that runs the tool, www-data (33)');
	}
	ob_start();
	include $infractl_file;
	ob_end_clean();
	$settings = array();
	foreach (get_defined_vars() as $name => $value) {
		if (strpos($name, 'dolibarr_') === 0) {
			$settings[$name] = $value;
		}
	}
	return $settings;
}

/**
 * Writes conf.php by a rename, so that no half of it is ever read, and removes the installer's copy of the former one.
 */
function infractl_conf_write($settings)
{
	$file = infractl_conf_file();
	$text = "<?php\n// Written by infractl: changes made by hand are lost.\n";
	foreach ($settings as $name => $value) {
		$text .= '$'.$name.' = '.var_export($value, true).";\n";
	}
	$part = $file.'.part';
	@unlink($part);
	$mask = umask(0377);
	$written = @file_put_contents($part, $text);
	umask($mask);
	if ($written !== strlen($text) || !@rename($part, $file)) {
		$failed = infractl_unwritten('conf.php', dirname($file), 'its folder must be mounted writable for uid '.infractl_uid().', with room on the disk');
		@unlink($part);
		throw $failed;
	}
	@unlink($file.'.old');
}

function infractl_uid()
{
	return function_exists('posix_geteuid') ? posix_geteuid() : getmyuid();
}

/**
 * Checks what conf.php is made of.
 */
function infractl_conf_input($input)
{
	return array(
		'url' => rtrim(infractl_text($input, 'url', '#^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$#D'), '/'),
		'db_host' => infractl_text($input, 'db_host', '/^[A-Za-z0-9.:_-]{1,253}$/D'),
		'db_port' => infractl_text($input, 'db_port', '/^[0-9]{1,5}$/D'),
		'db_name' => infractl_text($input, 'db_name', '/^[A-Za-z0-9_]{1,64}$/D'),
		'db_user' => infractl_text($input, 'db_user', '/^[A-Za-z0-9_]{1,32}$/D'),
	);
}

/**
 * Returns settings with what infractl decides put over what the installer or somebody else wrote. The character set is utf8mb4: utf8mb3
 * stops version 19 and newer, and utf8 loses characters of four bytes. What is not named here, such as an LDAP server, stays.
 */
function infractl_conf_hardened($settings, $values)
{
	$htdocs = infractl_htdocs();
	$id = infractl_secret('unique-id');
	$set = array('document_root' => $htdocs, 'url_root_alt' => '/custom', 'document_root_alt' => $htdocs.'/custom',
		'data_root' => infractl_documents(), 'db_prefix' => 'llx_', 'db_type' => 'mysqli', 'db_pass' => infractl_secret('db'),
		'db_character_set' => 'utf8mb4', 'db_collation' => 'utf8mb4_unicode_ci', 'prod' => '1', 'force_https' => '0',
		'restrict_os_commands' => 'mariadb-dump, mariadb, mysqldump, mysql, pg_dump, pg_restore', 'instance_unique_id' => $id);
	if ($values['url'] !== '') {
		$set['url_root'] = $values['url'];
	}
	foreach (array('db_host', 'db_port', 'db_name', 'db_user') as $key) {
		if ($values[$key] !== '') {
			$set[$key] = $values[$key];
		}
	}
	foreach ($set as $key => $value) {
		$settings['dolibarr_main_'.$key] = $value;
	}
	if (!empty($settings['dolibarr_main_dolcrypt_key'])) {
		$settings['dolibarr_main_dolcrypt_key'] = $id; // 22 and newer look here first
	}
	$settings += array('dolibarr_main_db_port' => '3306', 'dolibarr_main_authentication' => 'dolibarr');
	$settings['dolibarr_nocsrfcheck'] = '0';
	return $settings;
}

/**
 * Connects as conf.php says, with the password of the secret where it is mounted: it may be newer.
 */
function infractl_conf_connect($settings, $wait)
{
	foreach (array('host', 'name', 'user') as $key) {
		if (empty($settings['dolibarr_main_db_'.$key])) {
			throw new InfractlError('conf.php names no database', 'the instance is not installed: run install');
		}
	}
	$file = infractl_path('INFRACTL_SECRETS', '/run/secrets').'/db';
	$password = is_readable($file) ? infractl_secret('db') : (string) $settings['dolibarr_main_db_pass'];
	$port = empty($settings['dolibarr_main_db_port']) ? 3306 : $settings['dolibarr_main_db_port'];
	return infractl_connect($settings['dolibarr_main_db_host'], $port, $settings['dolibarr_main_db_user'], $password,
		$settings['dolibarr_main_db_name'], $wait);
}

/**
 * Encrypts stored secrets again when the instance gets another unique id, as a copy of a template does, and gives it a salt of its own.
 * All of it is one transaction, which also notes for which id it was done: after a crash it is done once, not twice.
 */
function infractl_identity($db, $settings)
{
	$new = infractl_secret('unique-id');
	$old = !empty($settings['dolibarr_main_dolcrypt_key']) ? $settings['dolibarr_main_dolcrypt_key'] : '';
	if ($old === '') {
		$old = isset($settings['dolibarr_main_instance_unique_id']) ? $settings['dolibarr_main_instance_unique_id'] : '';
	}
	$mark = hash('sha256', 'infractl '.$new);
	if (infractl_const($db, 'INFRACTL_IDENTITY') === $mark) {
		return false;
	}
	$db->begin_transaction();
	if ($old !== '' && $old !== $new) {
		infractl_recrypt($db, 'llx_const', 'value', $old, $new);
		if (infractl_query($db, "SHOW COLUMNS FROM llx_user LIKE 'api_key'")) {
			infractl_recrypt($db, 'llx_user', 'api_key', $old, $new);
		}
	}
	// Hashes of the old algorithms hold the salt: who has such users keeps it.
	$salted = infractl_query($db, "SELECT COUNT(*) AS n FROM llx_user WHERE pass_crypted IS NOT NULL AND pass_crypted NOT LIKE '\$2y\$%'")[0]['n'];
	if (($old !== $new || is_file(infractl_mark())) && $salted == 0) {
		infractl_set_const($db, 'MAIN_SECURITY_SALT', bin2hex(random_bytes(16)));
	}
	infractl_set_const($db, 'INFRACTL_IDENTITY', $mark);
	$db->commit();
	return true;
}

function infractl_recrypt($db, $table, $column, $old, $new)
{
	foreach (infractl_query($db, "SELECT rowid, `$column` AS v FROM $table WHERE `$column` LIKE 'dolcrypt:%'") as $row) {
		if (!preg_match('/^dolcrypt:([A-Za-z0-9-]+):([^:]*):(.+)$/s', $row['v'], $m) || stripos($m[1], 'gcm') !== false) {
			throw new InfractlError('a stored secret of '.$table.' is encrypted in an unknown way',
				'only a copy of a plain installation gets another unique id');
		}
		$plain = openssl_decrypt($m[3], $m[1], $old, 0, $m[2]);
		if ($plain === false) {
			throw new InfractlError('a stored secret of '.$table.' cannot be read with the former unique id');
		}
		$iv = bin2hex(random_bytes(8));
		$value = 'dolcrypt:'.$m[1].':'.$iv.':'.openssl_encrypt($plain, $m[1], $new, 0, $iv);
		infractl_query($db, "UPDATE $table SET `$column` = ? WHERE rowid = ?", array($value, $row['rowid']));
	}
}

/**
 * Returns a constant of all entities, or ''.
 */
function infractl_const($db, $name)
{
	$rows = infractl_query($db, 'SELECT value FROM llx_const WHERE name = ? AND entity = 0', array($name));
	return $rows ? (string) $rows[0]['value'] : '';
}

function infractl_set_const($db, $name, $value)
{
	infractl_query($db, 'DELETE FROM llx_const WHERE name = ? AND entity = 0', array($name));
	infractl_query($db, "INSERT INTO llx_const (name, value, type, visible, note, entity) VALUES (?, ?, 'chaine', 0, '', 0)", array($name, $value));
}
