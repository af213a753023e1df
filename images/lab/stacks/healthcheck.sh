#!/bin/sh
# The checks of the official image that the example asks for: it answers, and InnoDB works.
exec mariadb --batch --skip-column-names -e 'SELECT 1 FROM information_schema.ENGINES WHERE ENGINE = "InnoDB" AND SUPPORT IN ("YES", "DEFAULT")' >/dev/null
