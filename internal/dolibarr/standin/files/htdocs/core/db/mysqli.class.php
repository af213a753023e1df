<?php
// The database, with the names that scripts call it by.
class DoliDBMysqli
{
	public $connected = false;
	public $database_selected = false;
	public $error = '';
	public $database_name;
	private $link;

	public function __construct($host, $login, $pass, $name, $port, $charset = 'utf8')
	{
		mysqli_report(MYSQLI_REPORT_OFF);
		$this->database_name = $name;
		$this->link = mysqli_init();
		$this->link->options(MYSQLI_OPT_CONNECT_TIMEOUT, 5);
		if (!@$this->link->real_connect($host, $login, $pass, $name, (int) $port)) {
			$this->error = mysqli_connect_error();
			$this->link = null;
			return;
		}
		$this->connected = $this->database_selected = true;
		if ($charset === 'utf8mb3') { // PHP's driver does not know the name
			if ((int) DOL_VERSION >= 19) {
				print 'Failed to force character_set_client to utf8mb3 (according to setup) to match the one of the server database.';
				exit;
			}
			$charset = 'utf8';
		}
		$this->link->set_charset($charset);
	}

	public function query($sql)
	{
		$result = $this->link->query($sql);
		$this->error = $result === false ? $this->link->error : '';
		return $result;
	}

	public function fetch_object($result)
	{
		return $result->fetch_object();
	}

	public function rows($sql)
	{
		$result = $this->query($sql);
		$rows = array();
		while ($result && ($row = $result->fetch_object())) {
			$rows[] = $row;
		}
		return $rows;
	}

	public function num_rows($result)
	{
		return $result->num_rows;
	}

	public function last_insert_id()
	{
		return $this->link->insert_id;
	}

	public function escape($text)
	{
		return $this->link->real_escape_string((string) $text);
	}

	public function encrypt($text)
	{
		return "'".$this->escape($text)."'";
	}

	public function decrypt($column)
	{
		return $column;
	}

	public function errno()
	{
		return 'DB_ERROR_'.$this->link->errno;
	}

	public function lasterror()
	{
		return $this->error;
	}

	public function getDefaultCharacterSetDatabase()
	{
		$rows = $this->rows('SELECT @@character_set_database AS c');
		return $rows[0]->c;
	}

	public function close()
	{
		$this->link->close();
	}
}
