// Fake virsh: what libvirt 9.0's virsh says and how it ends, for the command transport's tests. Run by node; no library.
//
//   node fake-virsh.mjs WORLD qemu-monitor-command --domain D --cmd JSON
//   node fake-virsh.mjs WORLD qemu-agent-command --domain D --timeout N --cmd JSON
//   node fake-virsh.mjs WORLD qemu-monitor-event --domain D --loop
//
// WORLD is a directory: calls are appended to WORLD/calls (JSON lines), and events are read from WORLD/events as they are
// appended, from 60 ms after the start on.

import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const [world, verb, ...args] = process.argv.slice(2);
const option = (name) => args[args.indexOf(name) + 1];
const domain = option('--domain');
appendFileSync(
  join(world, 'calls'),
  `${JSON.stringify({ verb, args, locale: process.env.LC_ALL, pid: process.pid })}\n`,
);

const fail = (...lines) => {
  for (const line of lines) console.error(`error: ${line}`);
  process.exit(1);
};
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n\n`);

if (domain === 'none') fail("failed to get domain 'none'");
if (domain === 'off') fail('Requested operation is not valid: domain is not running');
if (domain === 'down')
  fail(
    'failed to connect to the hypervisor',
    "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory",
  );
if (domain === 'mine')
  fail(
    'failed to connect to the hypervisor',
    "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied",
  );

if (verb === 'qemu-monitor-event') {
  const file = join(world, 'events');
  const text = () => (existsSync(file) ? readFileSync(file, 'utf8') : '');
  process.on('SIGTERM', () => process.exit(0));
  // What happens before libvirt has let it in is not heard.
  setTimeout(() => {
    let said = text().length;
    setInterval(() => {
      const now = text();
      if (now.length > said) process.stdout.write(now.slice(said));
      if (now.endsWith('END\n')) process.exit(1);
      said = now.length;
    }, 5);
  }, 60);
} else {
  const { execute, arguments: given } = JSON.parse(option('--cmd'));
  if (execute === 'hang') setInterval(() => undefined, 1000);
  else if (verb === 'qemu-monitor-command') {
    if (execute === 'device_del') {
      appendFileSync(
        join(world, 'events'),
        `event DEVICE_DELETED at 1795265735.576123 for domain '${domain}': {"device":"${given.id}","path":"/machine/peripheral/${given.id}"}\n`,
      );
      say({ return: {}, id: 'libvirt-42' });
    } else if (execute === 'query-nope')
      say({ id: 'libvirt-43', error: { class: 'CommandNotFound', desc: 'The command query-nope has not been found' } });
    else if (execute === 'gone')
      say({ id: 'libvirt-44', error: { class: 'DeviceNotFound', desc: "Device 'x' not found" } });
    else if (execute === 'odd') process.stdout.write('what?\n');
    else say({ return: given ?? { status: 'running' }, id: 'libvirt-45' });
  } else {
    const refuse = (desc) => fail(`internal error: unable to execute QEMU agent command '${execute}': ${desc}`);
    if (domain === 'deaf') fail('Guest agent is not responding: QEMU guest agent is not connected');
    if (domain === 'bare') fail('argument unsupported: QEMU guest agent is not configured');
    if (execute === 'slow')
      fail("Guest agent is not responding: guest agent didn't respond to command within '1' seconds");
    if (execute === 'vanish') fail('Guest agent is not responding: Guest agent disappeared while executing command');
    if (execute === 'locked')
      fail(
        'Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainDetachDevice)',
      );
    if (execute === 'guest-exec') refuse('Command guest-exec has been disabled: the command is not allowed');
    if (execute === 'guest-nope') refuse('The command guest-nope has not been found');
    if (execute === 'guest-file-flush') refuse('failed to flush file: Device or resource busy');
    if (execute === 'guest-info')
      say({ return: { version: '7.2', supported_commands: [{ name: 'guest-ping', enabled: true }] } });
    else say({ return: given ?? {} });
  }
}
