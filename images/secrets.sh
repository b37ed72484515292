#!/bin/sh
# Creates the keys and passwords that are missing in the folder $1, each readable by the service that uses it only.
# What was created is printed; it is not printed again.
set -eu
umask 077
cd "$1"

random() {
    od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n'
    echo
}

write() { # the input to a file of the user $2; a file is there as a whole or not at all
    cat > "$1.new"
    chown "$2" "$1.new"
    mv "$1.new" "$1"
}

if [ ! -s triton_admin_key ]; then
    random | write triton_admin_key 1000
fi

if [ ! -s metrics_key ]; then
    random | write metrics_key 65534 # Prometheus's image runs as nobody
    [ ! -e keys ] || { echo; cat metrics_key; } >> keys
fi

if [ ! -e keys ]; then
    client=$(random)
    printf '%s\n' "$client" "$(cat metrics_key)" | write keys 10001
    echo "A key for clients was created: $client"
    echo 'When the server is ready, this returns an embedding:'
    echo "curl http://$ADDRESS/v1/embeddings --header 'Authorization: Bearer $client' --header 'Content-Type: application/json' --data '{\"input\": \"a shell\"}'"
fi

if [ ! -s grafana_password ]; then
    random | write grafana_password 472 # the user of Grafana's image
    echo "Grafana's password for the user admin was created: $(cat grafana_password)"
fi
