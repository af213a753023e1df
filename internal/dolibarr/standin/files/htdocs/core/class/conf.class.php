<?php
class Conf
{
	public $global;
	public $file;
	public $entity = 1;
	public $modules = array();

	public function __construct()
	{
		$this->global = new stdClass();
		$this->file = new stdClass();
	}

	public function setValues($db)
	{
		foreach ($db->rows('SELECT name, value FROM '.MAIN_DB_PREFIX.'const WHERE entity IN (0, '.((int) $this->entity).') ORDER BY entity') as $row) {
			$this->global->{$row->name} = dolDecrypt($row->value);
			if (preg_match('/^MAIN_MODULE_([A-Z0-9]+)$/', $row->name, $found) && $row->value) {
				$this->modules[strtolower($found[1])] = true;
			}
		}
		if (!empty($this->global->MAIN_SERVER_TZ) && $this->global->MAIN_SERVER_TZ != 'auto') {
			date_default_timezone_set($this->global->MAIN_SERVER_TZ);
		}
	}
}
