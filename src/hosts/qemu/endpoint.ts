// Endpoint: where a QEMU guest is reached, as a user writes it, and as a closed type.
//
//   qemu:/run/vm.qmp                            a QMP socket
//   qemu:/run/vm.qmp,agent=/run/vm.qga          and the guest agent's
//   qemu:127.0.0.1:4444,agent=[::1]:4445        loopback TCP: QMP asks for no password, so no other host is taken
//   libvirt:DOMAIN                              through virsh, which holds the sockets of its guests itself
//   proxmox:VMID                                /var/run/qemu-server/VMID.qmp and VMID.qga
//
// A comma within a path is doubled, as on QEMU's command line; "unix:" and "tcp:" before an address are taken as -qmp takes
// them. Pure: nothing is opened here (endpoint-open.ts does).
//
// Invariant: sayAddress of a parsed address parses to the same address.

import { err, ok, type Result } from '#base/result';

export type SocketAddress =
  | { readonly kind: 'unix'; readonly path: string }
  /** `host` is 127.x.y.z or ::1. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

export type QemuSource =
  | {
      readonly kind: 'sockets';
      /** As the user named it. */
      readonly name: string;
      readonly monitor: SocketAddress;
      /** Absent: only the hypervisor can be asked, nothing inside the guest. */
      readonly agent?: SocketAddress;
    }
  | { readonly kind: 'libvirt'; readonly name: string; readonly domain: string };

/** What Linux takes as sun_path, its terminating zero not counted (unix(7)). */
const UNIX_PATH_BYTES = 107;

/** Words with which a source begins; anything else is a capture's path, which is the caller's business. */
export const QEMU_SCHEMES = ['qemu:', 'libvirt:', 'proxmox:'] as const;

/** True when parseQemuSource should be asked at all. */
export const isQemuSource = (text: string): boolean => QEMU_SCHEMES.some((s) => text.startsWith(s));

/** One sentence when it names no guest. Nothing is looked up: whether somebody answers is told by the first request. */
export function parseQemuSource(text: string): Result<QemuSource, string> {
  const colon = text.indexOf(':');
  const rest = text.slice(colon + 1);
  switch (colon < 0 ? '' : text.slice(0, colon)) {
    case 'qemu':
      return parseSockets(text, rest);
    case 'libvirt':
      if (!/^[^-\s/][^\s/]*$/.test(rest))
        return err(`"${text}": a libvirt domain's name or UUID is expected after "libvirt:"`);
      return ok({ kind: 'libvirt', name: text, domain: rest });
    case 'proxmox': {
      if (!/^[1-9]\d{0,8}$/.test(rest))
        return err(`"${text}": a VMID is expected after "proxmox:", such as proxmox:100`);
      const path = (what: string): SocketAddress => ({ kind: 'unix', path: `/var/run/qemu-server/${rest}.${what}` });
      return ok({ kind: 'sockets', name: text, monitor: path('qmp'), agent: path('qga') });
    }
    default:
      return err(`"${text}" names no guest: qemu:SOCKET[,agent=SOCKET], libvirt:DOMAIN or proxmox:VMID`);
  }
}

function parseSockets(text: string, rest: string): Result<QemuSource, string> {
  const [first, ...options] = splitCommas(rest);
  const monitor = parseAddress(first);
  if (!monitor.ok) return err(`"${text}": the QMP socket: ${monitor.error}`);
  let agent: SocketAddress | undefined;
  for (const option of options) {
    const [, key, value] = /^([^=]*)=?(.*)$/s.exec(option) as unknown as [string, string, string];
    if (key !== 'agent')
      return err(
        `"${text}": "${option}" is no option of a QEMU source: agent=SOCKET is (a comma in a path is doubled)`,
      );
    if (agent !== undefined) return err(`"${text}": agent= is there twice`);
    const address = parseAddress(value);
    if (!address.ok) return err(`"${text}": the agent's socket: ${address.error}`);
    agent = address.value;
  }
  if (agent !== undefined && sayAddress(agent) === sayAddress(monitor.value))
    return err(`"${text}": QMP and the guest agent cannot be the same socket`);
  return ok({ kind: 'sockets', name: text, monitor: monitor.value, ...(agent === undefined ? {} : { agent }) });
}

/** Splits at single commas; a doubled one is a comma of the text. */
function splitCommas(text: string): [string, ...string[]] {
  const parts: [string, ...string[]] = [''];
  for (let k = 0; k < text.length; k++) {
    if (text[k] !== ',') parts[parts.length - 1] += text[k] as string;
    else if (text[k + 1] === ',') {
      parts[parts.length - 1] += ',';
      k++;
    } else parts.push('');
  }
  return parts;
}

/** One sentence when it is neither a path nor a port of this machine. */
export function parseAddress(text: string): Result<SocketAddress, string> {
  if (text.startsWith('unix:')) return parsePath(text.slice('unix:'.length));
  const tcp = /^(?:tcp:)?(\[[^\]/]*\]|[^[\]/:]*):(\d+)$/.exec(text);
  if (tcp === null)
    return text.startsWith('tcp:') ? err(`"${text}" is no address: tcp:127.0.0.1:PORT is`) : parsePath(text);
  const host = (tcp[1] as string).replace(/^\[|\]$/g, '');
  const port = Number(tcp[2]);
  if (port < 1 || port > 65535) return err(`port ${tcp[2]} is none: 1 to 65535`);
  const loopback = host === 'localhost' ? '127.0.0.1' : host;
  if (loopback !== '::1' && !/^127(\.\d{1,3}){3}$/.test(loopback))
    return err(
      `"${host}" is not this machine: a monitor asks for no password, so only loopback is taken (127.0.0.1, ::1); ` +
        'forward a port over ssh for another host',
    );
  return ok({ kind: 'tcp', host: loopback, port });
}

function parsePath(path: string): Result<SocketAddress, string> {
  if (path === '') return err('the path is empty');
  if (path.includes('\0')) return err('a path has no zero bytes');
  if (new TextEncoder().encode(path).length > UNIX_PATH_BYTES)
    return err(`"${path}" is longer than a unix socket's path may be (${UNIX_PATH_BYTES} bytes)`);
  return ok({ kind: 'unix', path });
}

/** For people, and parseAddress reads it back. */
export function sayAddress(a: SocketAddress): string {
  if (a.kind === 'tcp') return a.host.includes(':') ? `[${a.host}]:${a.port}` : `${a.host}:${a.port}`;
  return a.path.includes(':') ? `unix:${a.path}` : a.path;
}
