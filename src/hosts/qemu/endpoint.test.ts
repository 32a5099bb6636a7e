// What a user may type for a guest, and the sentence for what is none.

import { describe, expect, it } from 'vitest';
import { isQemuSource, parseAddress, parseQemuSource, sayAddress } from './endpoint.ts';
import { openGuest } from './endpoint-open.ts';

const source = (text: string): unknown => {
  const r = parseQemuSource(text);
  return r.ok ? r.value : `refused: ${r.error}`;
};

describe('endpoints', () => {
  it('QM1 a source names sockets, a libvirt domain or a Proxmox guest', () => {
    expect(source('qemu:/run/vm.qmp')).toEqual({
      kind: 'sockets',
      name: 'qemu:/run/vm.qmp',
      monitor: { kind: 'unix', path: '/run/vm.qmp' },
    });
    expect(source('qemu:127.0.0.1:4444,agent=[::1]:4445')).toMatchObject({
      monitor: { kind: 'tcp', host: '127.0.0.1', port: 4444 },
      agent: { kind: 'tcp', host: '::1', port: 4445 },
    });
    expect(source('qemu:unix:vm.qmp,agent=/run/vm.qga')).toMatchObject({
      monitor: { kind: 'unix', path: 'vm.qmp' },
      agent: { kind: 'unix', path: '/run/vm.qga' },
    });
    expect(source('qemu:tcp:localhost:4444')).toMatchObject({ monitor: { host: '127.0.0.1', port: 4444 } });
    expect(source('libvirt:web1')).toEqual({ kind: 'libvirt', name: 'libvirt:web1', domain: 'web1' });
    expect(source('proxmox:100')).toMatchObject({
      monitor: { path: '/var/run/qemu-server/100.qmp' },
      agent: { path: '/var/run/qemu-server/100.qga' },
    });
    expect([isQemuSource('qemu:x'), isQemuSource('web1.dimmer'), isQemuSource('host')]).toEqual([true, false, false]);
  });

  it('QM1 a comma within a path is doubled, and "=" needs nothing', () => {
    expect(source('qemu:/run/a,,b=c.qmp,agent=/run/a,,,,b.qga')).toMatchObject({
      monitor: { path: '/run/a,b=c.qmp' },
      agent: { path: '/run/a,,b.qga' },
    });
  });

  it('QM1 an address that is said is read back as itself', () => {
    for (const text of ['/run/vm.qmp', 'vm.qmp', 'unix:127.0.0.1:4444', 'unix:a:1', '127.0.0.1:1', '[::1]:65535']) {
      const address = parseAddress(text);
      if (!address.ok) throw new Error(address.error);
      expect(sayAddress(address.value)).toBe(text);
      expect(parseAddress(sayAddress(address.value))).toEqual(address);
    }
  });

  describe('QM2 what names no guest is refused', () => {
    it.each([
      ['qemu:10.0.0.7:4444', 'not this machine'],
      ['qemu:example.org:4444', 'not this machine'],
      ['qemu:[fe80::1]:4444', 'not this machine'],
      ['qemu:0.0.0.0:4444', 'not this machine'],
      ['qemu:/run/vm.qmp,agent=192.0.2.1:9', 'not this machine'],
      ['qemu:127.0.0.1:70000', 'port 70000'],
      ['qemu:tcp:127.0.0.1', 'no address'],
      ['qemu:', 'empty'],
      ['qemu:/run/vm.qmp,agent=', 'empty'],
      ['qemu:/run/vm.qmp,agnet=/run/vm.qga', 'no option'],
      ['qemu:/run/a,b.qmp', 'doubled'],
      ['qemu:/a,agent=/b,agent=/c', 'twice'],
      ['qemu:/a,agent=/a', 'same socket'],
      [`qemu:/${'x'.repeat(107)}`, 'longer than'],
      ['libvirt:', 'domain'],
      ['libvirt:--help', 'domain'],
      ['libvirt:qemu:///system/a b', 'domain'],
      ['proxmox:web1', 'VMID'],
      ['proxmox:0', 'VMID'],
      ['xen:1', 'names no guest'],
      ['/run/vm.qmp', 'names no guest'],
    ])('QM2 %s is refused with a sentence', (text, words) => {
      expect(source(text)).toContain('refused: ');
      expect(source(text)).toContain(words);
    });
  });

  it('QM1 opening connects nothing, and gives an agent only where one is named', () => {
    const open = (text: string): unknown[] => {
      const r = parseQemuSource(text);
      if (!r.ok) throw new Error(r.error);
      const guest = openGuest(r.value);
      return [guest.monitor.name, guest.agent?.name];
    };
    expect(open('qemu:/nowhere/vm.qmp')).toEqual(['/nowhere/vm.qmp', undefined]);
    expect(open('proxmox:7')).toEqual(['/var/run/qemu-server/7.qmp', '/var/run/qemu-server/7.qga']);
    expect(open('libvirt:web1')).toEqual(['libvirt:web1', 'libvirt:web1']);
  });
});
