import { describe, expect, it } from 'vitest';
import { redact, redactCgroup } from './redact.ts';

const cmdline = (text: string, hostName?: string): string => redact('/proc/cmdline', text, { hostName });

describe('redaction', () => {
  it('RD1 memory parameters keep their values, in either spelling of the name', () => {
    const line =
      'movablecore=512M movable_node hugepagesz=1G hugepages=4 memory_hotplug.memmap_on_memory=1 mem=2G ' +
      'transparent-hugepage=never memhp_default_state=online_movable crashkernel=256M numa=fake=4\n';
    expect(cmdline(line)).toBe(line);
  });

  it('RD2 any other parameter keeps its name and loses its value', () => {
    expect(cmdline('root=UUID=1234 console=ttyS0,115200 foo.token=hunter2\n')).toBe('root=* console=* foo.token=*\n');
  });

  it('RD3 other words go as a whole: a secret need not have a name', () => {
    expect(cmdline('quiet hunter2 mem=2G')).toBe('* * mem=2G');
    expect(cmdline('aGVsbG8/d29ybGQ=Zm9v 9f8e7d=1')).toBe('* *');
  });

  it('RD4 quotes protect blanks, as in the kernel: nothing of a quoted value is left', () => {
    expect(cmdline('dyndbg="file x +p; hunter2" mem=2G')).toBe('dyndbg=* mem=2G');
    expect(cmdline('"motto=one two three" mem=2G')).toBe('* mem=2G');
    expect(cmdline('motto="never closed hunter2 mem=2G')).toBe('motto=*');
  });

  it('RD5 what follows -- is for init, whatever it looks like', () => {
    expect(cmdline('mem=2G -- --token hunter2 mem=secret\n')).toBe('mem=2G -- * * *\n');
  });

  it('RD6 who built the kernel goes; its release and its compiler stay', () => {
    const debian =
      'Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP Debian\n';
    expect(redact('/proc/version', debian, {})).toBe(
      'Linux version 6.1.0-56-amd64 (*@*) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP Debian\n',
    );
  });

  it('RD7 module addresses read as zeros of the same width', () => {
    expect(redact('/proc/modules', 'btrfs 1806336 0 - Live 0xffffffffc0895000 (E)\n', {})).toBe(
      'btrfs 1806336 0 - Live 0x0000000000000000 (E)\n',
    );
  });

  it('RD8 of the processors the first one stays, and of it what tells model and features', () => {
    const text =
      'processor\t: 0\nmodel name\t: X\nmicrocode\t: 0x1\ninitial apicid\t: 7\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\n\n';
    expect(redact('/proc/cpuinfo', text, {})).toBe('processor\t: 0\nmodel name\t: X\nflags\t\t: fpu hypervisor\n');
  });

  it('RD9 the host name goes where it is a word of its own, and only there', () => {
    const hostName = 'db-17.example\n';
    expect(redactCgroup('/db-17.example.slice/app-db-17.examples', { hostName })).toBe('/*.slice/app-db-17.examples');
    expect(redact('/proc/version', 'Linux version 6.1 #1 db-17.example\n', { hostName })).toBe(
      'Linux version 6.1 #1 *\n',
    );
    expect(redactCgroup('/a/b', { hostName: 'a' })).toBe('/a/b'); // one letter names nobody
    expect(redactCgroup('/(none)', { hostName: '(none)' })).toBe('/(none)');
  });

  it('RD10 a cgroup is one line, whatever its owner called it', () => {
    expect(redactCgroup('/a\u001b[2J\nb', {})).toBe('/a?[2J?b');
  });

  it('RD11 redacting twice changes nothing', () => {
    const texts: Record<string, string> = {
      '/proc/cmdline': 'root=/dev/sda1 mem=2G "a b" -- x=1\n',
      '/proc/version': 'Linux version 6.1.0 (a@b) (gcc) #1\n',
      '/proc/modules': 'x 1 0 - Live 0xffffffffc0895000\n',
      '/proc/cpuinfo': 'processor\t: 0\nbogomips\t: 1\n\nprocessor\t: 1\n',
      '/proc/zoneinfo': 'Node 0, zone DMA\n',
    };
    for (const [path, text] of Object.entries(texts)) {
      const once = redact(path, text, { hostName: 'db-17' });
      expect(redact(path, once, { hostName: 'db-17' }), path).toBe(once);
    }
  });
});
