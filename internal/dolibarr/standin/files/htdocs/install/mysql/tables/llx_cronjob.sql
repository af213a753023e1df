create table llx_cronjob
(
  rowid        integer AUTO_INCREMENT PRIMARY KEY,
  label        varchar(255) NOT NULL,
  jobtype      varchar(10) NOT NULL,
  command      varchar(255),
  datenextrun  datetime,
  datelastrun  datetime,
  lastresult   text,
  lastoutput   text,
  status       integer DEFAULT 0 NOT NULL
)ENGINE=innodb;
