<?php
// What every module does: a constant that says it is on, its rights, its tables.
class DolibarrModules
{
	public $db;
	public $const_name;
	public $error = '';
	public $depends = array();
	public $requiredby = array();
	public $rights = array();
	public $const = array();
	public $tables = array();
	public $needs_country = false;

	public function __construct($db)
	{
		$this->db = $db;
		$this->const_name = 'MAIN_MODULE_'.strtoupper(preg_replace('/^mod/i', '', get_class($this)));
	}

	public function init()
	{
		global $conf;
		foreach ($this->tables as $sql) {
			if (!$this->db->query($sql)) {
				$this->error = $this->db->lasterror();
				return -1;
			}
		}
		foreach ($this->rights as $id => $label) {
			$this->db->query('INSERT IGNORE INTO '.MAIN_DB_PREFIX.'rights_def (id, libelle, module, entity) VALUES ('.((int) $id).", '"
				.$this->db->escape($label)."', '".$this->db->escape(strtolower(substr(get_class($this), 3)))."', 1)");
		}
		foreach ($this->const as $name => $value) {
			if (!$this->db->rows('SELECT rowid FROM '.MAIN_DB_PREFIX."const WHERE name = '".$this->db->escape($name)."'")) {
				$this->db->query('INSERT INTO '.MAIN_DB_PREFIX."const (name, value, type, visible, note, entity) VALUES ('".$this->db->escape($name)
					."', '".$this->db->escape($value)."', 'chaine', 0, '', 0)");
			}
		}
		$conf->modules[strtolower(substr(get_class($this), 3))] = true;
		return dolibarr_set_const($this->db, $this->const_name, '1', 'string', 0, '', $conf->entity);
	}

	public function remove()
	{
		global $conf;
		$this->db->query('DELETE FROM '.MAIN_DB_PREFIX."const WHERE name = '".$this->db->escape($this->const_name)."'");
		$this->db->query('DELETE FROM '.MAIN_DB_PREFIX."rights_def WHERE module = '".$this->db->escape(strtolower(substr(get_class($this), 3)))."'");
		unset($conf->global->{$this->const_name}, $conf->modules[strtolower(substr(get_class($this), 3))]);
		return 1;
	}
}
