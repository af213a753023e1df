#!/bin/sh
# The command of a container of scheduled jobs. PHP of the official image knows no signals, and the first program of a container does not
# end by one that it does not know: a file tells it to end, between two jobs.
INFRACTL_STOP=$(mktemp -u) || exit 1
export INFRACTL_STOP
trap ': > "$INFRACTL_STOP"' TERM INT WINCH # the last is what stops Apache, hence containers of its image
exec 3<&0 # what runs in the background gets no input otherwise
php "${0%/*}/tool.php" cron <&3 &
exec 3<&-
while :; do
  wait $!
  code=$? # of the jobs, or of a signal that the shell got
  kill -0 $! 2>/dev/null || break
done
rm -f "$INFRACTL_STOP"
exit $code
