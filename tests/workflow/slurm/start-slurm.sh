#!/usr/bin/env bash
# start-slurm.sh - start a throw-away SLURM cluster on this machine.
# Tried with SLURM 22.05 (Debian 12). The last node has a pretended GPU (/dev/null) and alone makes
# the partition gpu.
#
#   start-slurm.sh [options] STATE_DIR
#     -n N     number of (virtual) nodes, one slurmd each             (default 2)
#     -c N     CPUs per node; may exceed the real core count          (default: nproc)
#     -m MB    memory per node                                        (default: 80% of RAM / N)
#     -p PORT  first of the N+2 TCP ports the daemons listen on       (default 26817)
#     -a       accounting: also run mariadbd and slurmdbd, so that sacct works
#     -g       cgroup mode (root, writable cgroups): jobs are confined and end as
#              OUT_OF_MEMORY; without it memory is polled every 2 s (they end as FAILED)
#     -i       apt-get install the Debian packages that are missing (root)
#
# Needs no systemd and, but for -g and -i, no root. Everything lives under STATE_DIR;
# /etc/slurm and /etc/munge are not used. A healthy cluster with the same options is left
# alone (exit 0); a half-dead or different one in STATE_DIR is stopped and started again.
# Afterwards:  . STATE_DIR/env.sh; sinfo
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
die() { echo "start-slurm: ERROR: $*" >&2; exit 1; }
say() { echo "start-slurm: $*"; }

nodes=2 cpus=$(nproc) mem='' port=26817 acct=0 cgroup=0 install=0
while getopts n:c:m:p:agih opt; do
    case $opt in
        n) nodes=$OPTARG ;; c) cpus=$OPTARG ;; m) mem=$OPTARG ;; p) port=$OPTARG ;;
        a) acct=1 ;; g) cgroup=1 ;; i) install=1 ;;
        h) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) die "see start-slurm.sh -h" ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || die "usage: start-slurm.sh [-n N] [-c CPUS] [-m MB] [-p PORT] [-a] [-g] [-i] STATE_DIR"
for v in "$nodes" "$cpus" "$port" "${mem:-1}"; do
    [[ $v =~ ^[1-9][0-9]*$ ]] || die "not a positive number: '$v'"
done
mkdir -p "$1" && dir=$(cd "$1" && pwd)
[ ${#dir} -le 80 ] || die "STATE_DIR is too long for a unix socket path: $dir"
[[ $dir =~ ^[A-Za-z0-9_./-]+$ ]] || die "STATE_DIR has characters that slurm.conf cannot hold: $dir"
: "${mem:=$(awk -v n="$nodes" '/^MemTotal/{print int($2 / 1024 * 0.8 / n)}' /proc/meminfo)}"
if ((cgroup)); then
    [ "$(id -u)" = 0 ] || die "-g needs root"
    [ -w /sys/fs/cgroup/memory ] || [ -w /sys/fs/cgroup/cgroup.procs ] || die "-g: no writable cgroups here"
fi

# One start at a time per STATE_DIR; the daemons below are started without fd 9.
exec 9>"$dir/.lock"
flock -w 180 9 || die "another start-slurm.sh holds $dir/.lock"

# --- packages ---------------------------------------------------------------------
need=(munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client)
((acct)) && need+=(slurmdbd:slurmdbd mariadbd:mariadb-server-core mariadb:mariadb-client-core)
missing=()
for n in "${need[@]}"; do command -v "${n%%:*}" >/dev/null || missing+=("${n##*:}"); done
if [ ${#missing[@]} -gt 0 ]; then
    ((install)) || die "missing Debian packages: ${missing[*]} (apt-get install them, or use -i)"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # RUNLEVEL=1: start no service
    { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } \
        >"$dir/apt.log" 2>&1 9>&- || die "apt-get failed, see $dir/apt.log"
fi

# --- already up? --------------------------------------------------------------------
# alive NAME: the pid in NAME's pid file is a live process that uses files below $dir
alive() {
    local pid
    pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] &&
        { grep -qsF -- "$dir/" "/proc/$pid/cmdline" ||
            find "/proc/$pid/fd" -lname "$dir/*" 2>/dev/null | grep -q .; }
}
want="nodes=$nodes cpus=$cpus mem=$mem port=$port acct=$acct cgroup=$cgroup"
names=(munged)
((acct)) && names+=(mariadbd slurmdbd)
names+=(slurmctld)
for ((i = 1; i <= nodes; i++)); do names+=("slurmd-n$i"); done
export SLURM_CONF=$dir/etc/slurm.conf

if [ -f "$dir/run/settings" ]; then
    up=1
    for n in "${names[@]}"; do alive "$n" || up=0; done
    if ((up)) && [ "$(cat "$dir/run/settings")" = "$want" ] &&
        timeout 10 scontrol ping 2>/dev/null | grep -q 'is UP'; then
        say "already running in $dir ($want)"
        exit 0
    fi
    say "found a stale or different cluster in $dir, stopping it first"
    "$here/stop-slurm.sh" "$dir" 9>&-
fi

# --- configuration ------------------------------------------------------------------
user=$(id -un) host=$(hostname -s)
dbd_port=$((port + 1)) d_port=$((port + 2))
# With NoInAddrAny daemons and srun bind to what the host name resolves to: 127.0.0.1, or the
# machine's own address, as in a container. With Debian's usual 127.0.1.1 the daemons start but srun
# waits in vain.
addr=$(getent ahostsv4 "$host" | awk 'NR == 1 {print $1}') || true
[[ " 127.0.0.1 $(hostname -I) " == *" $addr "* && -n $addr ]] ||
    die "host name '$host' resolves to '${addr:-nothing}', not to this machine;" \
        "let /etc/hosts say '127.0.0.1 $host' first"
for ((p = port; p < d_port + nodes; p++)); do
    ! (exec 3<>"/dev/tcp/$addr/$p") 2>/dev/null || die "port $p is in use; choose others with -p"
done

umask 022
mkdir -p "$dir"/{bin,etc,run,log,state,spool}
[ -s "$dir/etc/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$dir/etc/munge.key")

if ((cgroup)); then
    plugins='ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup'
else
    plugins='ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill'
fi
if ((acct)); then
    # AccountingStoragePass: the munge socket for talks with slurmdbd (AuthInfo is not used there)
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$addr
AccountingStoragePort=$dbd_port
AccountingStoragePass=$dir/run/munge.sock
AccountingStoreFlags=job_comment"
else
    accounting='AccountingStorageType=accounting_storage/none'
fi

cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host($addr)
SlurmctldPort=$port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
$plugins
JobAcctGatherFrequency=task=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# config_overrides: believe the node sizes below even if the machine is smaller
SlurmdParameters=config_overrides
# For tests: schedule at once, give up on dead nodes and killed jobs soon, remember jobs long
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmctldTimeout=120
SlurmdTimeout=300
KillWait=3
WaitTime=5
MinJobAge=3600
# 1: a node that was set down stays down, one that did not answer comes back
ReturnToService=1
$accounting
GresTypes=gpu
$(for ((i = 1; i <= nodes; i++)); do
    echo "NodeName=n$i NodeHostname=$host NodeAddr=$addr Port=$((d_port + i - 1)) CPUs=$cpus Boards=1" \
        "SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$mem" \
        "$( ((i < nodes)) || echo Gres=gpu:1) State=UNKNOWN"
done)
PartitionName=main Nodes=ALL Default=YES DefMemPerCPU=400 DefaultTime=10 MaxTime=1440 State=UP
PartitionName=gpu Nodes=n$nodes DefMemPerCPU=400 DefaultTime=10 MaxTime=1440 State=UP
CONF
echo "NodeName=n$nodes Name=gpu File=/dev/null" >"$dir/etc/gres.conf"
cat >"$dir/etc/cgroup.conf" <<CONF
CgroupPlugin=autodetect
IgnoreSystemd=yes
ConstrainCores=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainDevices=no
CONF
# Snakemake's slurm-jobstep executor drops SLURM_CONF from the environment before it calls
# srun, which would then look for /etc/slurm/slurm.conf. This srun puts it back.
cat >"$dir/bin/srun" <<CONF
#!/bin/sh
export SLURM_CONF=$SLURM_CONF
exec $(command -v srun) "\$@"
CONF
chmod +x "$dir/bin/srun"
cat >"$dir/env.sh" <<CONF
# . this file to use the cluster in $dir
export SLURM_CONF=$SLURM_CONF
case :\$PATH: in *:$dir/bin:*) ;; *) export PATH=$dir/bin:\$PATH ;; esac
CONF

# --- daemons ----------------------------------------------------------------------
# fail WHAT LOG: show the log's end, stop what was started
fail() {
    echo "--- the last lines of $2:" >&2
    tail -n 15 "$2" >&2 || true
    "$here/stop-slurm.sh" "$dir" >/dev/null 2>&1 9>&- || true
    die "$1"
}
# wait_for SECONDS WHAT LOG COMMAND...: poll until the command succeeds, else fail
wait_for() {
    local end=$((SECONDS + $1)) what=$2 log=$3
    shift 3
    until "$@" >/dev/null 2>&1 9>&-; do
        ((SECONDS < end)) || fail "$what" "$log"
        sleep 0.1
    done
}
# daemon NAME COMMAND...: start something that puts itself into the background
daemon() {
    local name=$1
    shift
    "$@" >>"$dir/log/$name.out" 2>&1 </dev/null 9>&- || fail "$name did not start" "$dir/log/$name.out"
}
echo "$want" >"$dir/run/settings"

daemon munged munged --force --num-threads=2 --key-file="$dir/etc/munge.key" \
    --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/state/munged.seed"
wait_for 10 "munged does not answer" "$dir/log/munged.log" munge -n -S "$dir/run/munge.sock"

if ((acct)); then
    sock=$dir/run/mariadb.sock
    if [ ! -d "$dir/db/mysql" ]; then
        daemon mariadb-install-db mariadb-install-db --no-defaults --datadir="$dir/db" --user="$user" \
            --skip-test-db --auth-root-authentication-method=socket --auth-root-socket-user="$user"
    fi
    # No TCP at all: slurmdbd reaches the database over the unix socket.
    setsid mariadbd --no-defaults --datadir="$dir/db" --user="$user" --socket="$sock" \
        --skip-networking --pid-file="$dir/run/mariadbd.pid" --log-error="$dir/log/mariadb.log" \
        --innodb-buffer-pool-size=32M --innodb-log-file-size=16M \
        --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 \
        >>"$dir/log/mariadb.out" 2>&1 </dev/null 9>&- &
    wait_for 30 "mariadbd does not answer" "$dir/log/mariadb.log" \
        mariadb --no-defaults -S "$sock" -e 'create database if not exists slurm_acct_db'
    (umask 077; cat >"$dir/etc/slurmdbd.conf") <<CONF
DbdHost=$host
DbdAddr=$addr
DbdPort=$dbd_port
CommunicationParameters=NoInAddrAny
SlurmUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$user
StorageLoc=slurm_acct_db
CONF
    chmod 600 "$dir/etc/slurmdbd.conf" # slurmdbd refuses any other mode
    # It finds slurmdbd.conf beside SLURM_CONF, and the database by MYSQL_UNIX_PORT.
    daemon slurmdbd env MYSQL_UNIX_PORT="$sock" slurmdbd
    wait_for 60 "slurmdbd does not answer" "$dir/log/slurmdbd.log" timeout 5 sacctmgr -n list cluster
    {
        sacctmgr -i add cluster local
        sacctmgr -i add account tests Description=tests Organization=tests
        sacctmgr -i add user "$user" account=tests
        sacctmgr -i modify user "$user" set defaultaccount=tests
    } >>"$dir/log/sacctmgr.out" 2>&1 9>&- || true # "Nothing new added" is an error, too
fi

daemon slurmctld slurmctld -f "$SLURM_CONF"
for ((i = 1; i <= nodes; i++)); do
    mkdir -p "$dir/spool/n$i"
    daemon "slurmd-n$i" slurmd -N "n$i" -f "$SLURM_CONF"
done
wait_for 20 "slurmctld does not answer" "$dir/log/slurmctld.log" \
    bash -c 'timeout 5 scontrol ping | grep -q "is UP"'
# Nodes that did not answer an earlier cluster come back by themselves (ReturnToService).
wait_for 40 "not all $nodes nodes are up" "$dir/log/slurmctld.log" \
    bash -c "[ \$(timeout 5 sinfo -hN -p main -t idle,alloc,mixed -o %N | wc -l) -eq $nodes ]"

# --- nowhere else? ----------------------------------------------------------------
if command -v ss >/dev/null; then
    for n in "${names[@]}"; do
        bad=$(ss -Hltnp | grep "pid=$(cat "$dir/run/$n.pid")," | awk '{print $4}' |
            grep -v -E "^(127\.|\[::1\]|${addr//./\\.}:)" || true)
        [ -z "$bad" ] || fail "$n listens on $bad, not only on $addr" "$dir/log/$n.out"
    done
fi
say "up: $nodes node(s) x $cpus CPUs, $mem MB each, ports from $port; use:  . $dir/env.sh"
