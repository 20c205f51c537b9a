#!/bin/bash
# A lighthouse of the mesh on a small EC2 machine (Debian, Ubuntu or Amazon Linux). Made by Lamplighter; holds no secret.
set -euo pipefail
id nebula >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin nebula
# Root's, not nebula's: what root writes and reads there must not be another's to exchange.
install -d -m 0755 /etc/nebula /usr/local/lib/lamplighter
cat > /usr/local/lib/lamplighter/lighthouse.json <<'END_OF_SETTINGS'
@SETTINGS@
END_OF_SETTINGS
cat > /usr/local/lib/lamplighter/lighthouse.py <<'END_OF_PROGRAM'
@PROGRAM@
END_OF_PROGRAM
cat > /etc/systemd/system/nebula.service <<'END_OF_UNIT'
@SERVICE@
END_OF_UNIT
cat > /etc/systemd/system/lighthouse-refresh.service <<'END_OF_UNIT'
[Unit]
Description=Read the lighthouse's files from the Parameter Store
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /usr/local/lib/lamplighter/lighthouse.py
TimeoutStartSec=120
ProtectHome=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths=/etc/nebula
END_OF_UNIT
cat > /etc/systemd/system/lighthouse-refresh.timer <<'END_OF_UNIT'
[Unit]
Description=Read the lighthouse's files every minute

[Timer]
OnBootSec=20
OnUnitInactiveSec=60
AccuracySec=5

[Install]
WantedBy=timers.target
END_OF_UNIT
systemctl daemon-reload
# The network may need a while, and so may the internet gateway of a new VPC.
for _ in $(seq 30); do
    python3 /usr/local/lib/lamplighter/lighthouse.py install && break
    sleep 10
done
/usr/local/bin/nebula -version
systemctl enable nebula.service
systemctl enable --now lighthouse-refresh.timer
systemctl start --no-block lighthouse-refresh.service
