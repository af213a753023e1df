<?php
class User
{
	public $db;
	public $id;
	public $login;
	public $admin;
	public $statut;
	public $flagdelsessionsbefore;
	public $error = '';

	public function __construct($db)
	{
		$this->db = $db;
	}

	public function fetch($id = '', $login = '', $sid = '', $loadpersonalconf = 0)
	{
		$rows = $this->db->rows('SELECT * FROM '.MAIN_DB_PREFIX.'user WHERE '
			.($login !== '' ? "login = '".$this->db->escape($login)."'" : 'rowid = '.((int) $id)));
		if (count($rows) !== 1) {
			return 0;
		}
		$this->id = $rows[0]->rowid;
		$this->login = $rows[0]->login;
		$this->admin = $rows[0]->admin;
		$this->statut = $rows[0]->statut;
		$this->flagdelsessionsbefore = isset($rows[0]->flagdelsessionsbefore) ? $rows[0]->flagdelsessionsbefore : null;
		return 1;
	}

	public function getrights()
	{
		return 1;
	}
}
