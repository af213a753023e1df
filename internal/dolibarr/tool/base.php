<?php
/*
 * What every verb needs: paths, input and output, secrets, child processes, the database.
 */

/**
 * A failure that people read: what is wrong, and what to do next.
 */
class InfractlError extends Exception
{
	/** @var string what to do next */
	public $hint;
	/** @var array further fields of the answer */
	public $more;

	public function __construct($message, $hint = '', $more = array())
	{
		parent::__construct($message);
		$this->hint = $hint;
		$this->more = $more;
	}
}

/**
 * Returns a folder of the environment's variable, or the one that both images have.
 */
function infractl_path($variable, $default)
{
	$value = getenv($variable);
	return rtrim($value === false || $value === '' ? $default : $value, '/');
}

function infractl_htdocs()
{
	return infractl_path('INFRACTL_HTDOCS', '/var/www/html');
}

function infractl_documents()
{
	return infractl_path('INFRACTL_DOCUMENTS', '/var/www/documents');
}

/**
 * The scripts folder lies beside htdocs upstream, and beside html in both images.
 */
function infractl_scripts()
{
	return dirname(infractl_htdocs()).'/scripts';
}

/**
 * Reads the JSON object on stdin; nothing at all is an empty one. More than 64 KiB is refused.
 */
function infractl_input()
{
	$text = stream_get_contents(STDIN, 65537);
	if ($text === false || trim($text) === '') {
		return array();
	}
	$input = strlen($text) > 65536 ? null : json_decode($text, true, 8);
	if (!is_array($input)) {
		throw new InfractlError('the input on stdin is no JSON object', 'at most 64 KiB');
	}
	return $input;
}

/**
 * Returns a text of the input, checked against a pattern. Missing and empty ones give the default.
 */
function infractl_text($input, $key, $pattern, $default = '')
{
	if (!isset($input[$key]) || $input[$key] === '') {
		return $default;
	}
	if (!is_string($input[$key]) || !preg_match($pattern, $input[$key])) {
		throw new InfractlError('bad value of '.$key);
	}
	return $input[$key];
}

/**
 * Returns a list of names of the input.
 */
function infractl_list($input, $key)
{
	$list = isset($input[$key]) ? $input[$key] : array();
	foreach (is_array($list) ? $list : array(null) as $name) {
		if (!is_string($name) || !preg_match('/^[A-Za-z][A-Za-z0-9_]{0,63}$/D', $name)) {
			throw new InfractlError('bad value of '.$key, 'a list of module names');
		}
	}
	return array_values(array_unique($list));
}

/**
 * Prints one line of the answer.
 */
function infractl_line($fields)
{
	$flags = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PARTIAL_OUTPUT_ON_ERROR;
	fwrite(STDOUT, json_encode($fields, $flags)."\n");
}

/**
 * Runs a part of a verb and prints how long it took.
 */
function infractl_step($name, $function)
{
	$start = microtime(true);
	$result = $function();
	infractl_line(array('step' => $name, 'seconds' => round(microtime(true) - $start, 3)));
	return $result;
}

/**
 * Reads a secret from its file. A newline at its end does not belong to it.
 */
function infractl_secret($name)
{
	$file = infractl_path('INFRACTL_SECRETS', '/run/secrets').'/'.$name;
	$value = is_readable($file) ? file_get_contents($file, false, null, 0, 1024) : false;
	if ($value === false) {
		throw new InfractlError('the secret '.$name.' cannot be read', 'it is mounted at '.$file);
	}
	$value = preg_replace('/\r?\n$/D', '', $value);
	if ($value === '' || strlen($value) > 256 || preg_match('/[\x00-\x1f\x7f]/', $value)) {
		throw new InfractlError('the secret '.$name.' is empty, too long or holds control characters');
	}
	return $value;
}

/**
 * Takes secrets out of a text that people or logs will see.
 */
function infractl_redact($text)
{
	foreach (array('db', 'admin', 'unique-id', 'cron-key') as $name) {
		try {
			$text = str_replace(infractl_secret($name), '***', $text);
		} catch (InfractlError $e) {
			continue; // not mounted here
		}
	}
	return $text;
}

/**
 * Runs a child of this file and returns its exit code and output. The official image allows exec and nothing else of its kind.
 */
function infractl_child($verb, $task)
{
	$command = escapeshellarg(PHP_BINARY).' -d display_errors=stderr -d memory_limit=512M '.escapeshellarg(__DIR__.'/tool.php').' '.$verb.' '
		.escapeshellarg(base64_encode(json_encode($task))).' </dev/null 2>&1';
	$lines = array();
	$code = 255;
	if (exec($command, $lines, $code) === false) {
		throw new InfractlError('no child process can be started', 'PHP must allow exec');
	}
	return array($code, implode("\n", $lines));
}

/**
 * Returns the end of a script's output as one line of plain text, without secrets.
 */
function infractl_tail($output)
{
	$text = preg_replace('/\s+/', ' ', trim(html_entity_decode(strip_tags(preg_replace('#<(script|style)\b.*?</\1>#is', ' ', $output)))));
	return infractl_redact(strlen($text) > 600 ? '...'.substr($text, -600) : $text);
}

/**
 * Connects to a database, and waits for it as long as said. Only what time can mend is tried again.
 */
function infractl_connect($host, $port, $user, $password, $name, $wait)
{
	mysqli_report(MYSQLI_REPORT_OFF);
	$end = microtime(true) + $wait;
	do {
		$db = mysqli_init();
		$db->options(MYSQLI_OPT_CONNECT_TIMEOUT, 5);
		if (@$db->real_connect($host, $user, $password, $name, (int) $port)) {
			$db->set_charset('utf8mb4');
			return $db;
		}
		$number = mysqli_connect_errno();
		$reason = mysqli_connect_error();
		if ($number == 1045 || $number == 1044 || $number == 1130) {
			throw new InfractlError('the database refuses the user '.$user.': '.$reason, 'the secret db is not the password that the database has');
		}
		if ($number == 1049) {
			throw new InfractlError('there is no database '.$name, 'create it as utf8mb4 with the collation utf8mb4_unicode_ci');
		}
		usleep(200000);
	} while (microtime(true) < $end);
	throw new InfractlError('the database at '.$host.' does not answer: '.$reason, 'see the log of its container');
}

/**
 * Returns the error for something that could not be written: a full disk is said, since PHP itself names no reason.
 */
function infractl_unwritten($what, $dir, $hint)
{
	$free = function_exists('disk_free_space') ? @disk_free_space($dir) : false;
	if ($free !== false && $free < 65536) {
		return new InfractlError($what.' cannot be written: the disk is full', 'make room on the host, then try again');
	}
	return new InfractlError($what.' cannot be written', $hint);
}

/**
 * Runs a statement, each ? of which stands for a parameter, and returns its rows or the number of changed rows.
 */
function infractl_query($db, $sql, $parameters = array())
{
	$parts = explode('?', $sql);
	$text = array_shift($parts);
	foreach ($parts as $i => $part) {
		$value = $parameters[$i];
		$text .= ($value === null ? 'NULL' : "'".$db->real_escape_string((string) $value)."'").$part;
	}
	$result = $db->query($text);
	if ($result === false) {
		throw new InfractlError('the database refuses a statement: '.$db->error);
	}
	return $result === true ? $db->affected_rows : $result->fetch_all(MYSQLI_ASSOC);
}

/**
 * Lets only one run at a time change an instance, from whichever container.
 */
function infractl_alone($db)
{
	$rows = infractl_query($db, "SELECT GET_LOCK(CONCAT('infractl.', DATABASE()), 0) AS got");
	if ($rows[0]['got'] != 1) {
		throw new InfractlError('another run is at work on this instance', 'wait for its end');
	}
}
