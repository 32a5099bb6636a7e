// Mounts for real, as root, where /dev/fuse is: the machine's own tools on a fake kernel tree. Nothing here writes to the
// machine's own /sys: each test with a namespace compares it before and after.

import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';

import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type Mounted, mountFuse, spawnInside } from '../../src/hosts/fuse/index.ts';
import { ROOT } from '../support/source-files.ts';
import { FakeKernel } from './fake-kernel.ts';
import { bundled, mountFile, ourMounts, type Ran, realTree, scratch, sh, sleep, start, until } from './harness.ts';

let server = '';
let cli = '';
const box = mountFile('test/mount', async (programs) => {
  [server, cli] = await Promise.all([bundled('server', programs), bundled('cli', programs)]);
});

const M = '/sys/devices/system/memory';

async function mounted(
  tree = new FakeKernel(),
  options: { writeTimeoutMs?: number } = {},
): Promise<{ dir: string; m: Mounted; tree: FakeKernel; memory: string }> {
  const dir = scratch();
  const got = await mountFuse(tree, dir, options);
  if (!got.ok) throw new Error(got.error.sentence);
  const m = got.value;
  onTestFinished(async () => {
    await m.unmount();
    expect(ourMounts(dir)).toEqual([]);
  });
  return { dir, m, tree, memory: `${dir}${M}` };
}

describe('a mounted tree', () => {
  it('FU7 ls, stat and cat show what the tree has', async () => {
    const { memory, dir } = await mounted();
    expect((await sh(`cd ${memory}; ls`)).out.split('\n').slice(0, 3)).toEqual([
      'auto_online_blocks',
      'block_size_bytes',
      'memory0',
    ]);
    expect((await sh(`stat -c '%A %a %U %G %s %F' ${memory}/memory3/state`)).out).toBe(
      '-rw-r--r-- 644 root root 4096 regular file\n',
    );
    expect((await sh(`stat -c '%A %s' ${dir}/proc/zoneinfo`)).out).toBe('-r--r--r-- 0\n');
    expect((await sh(`cat ${memory}/memory3/state ${memory}/memory3/node0/memory4/phys_index`)).out).toBe(
      'online\n00000004\n',
    );
    expect((await sh(`wc -c < ${dir}/proc/zoneinfo`)).out).toBe(`${22 * 6000}\n`);
    const missing = await sh(`cat ${memory}/memory99/state; cat ${memory}; cat ${memory}/memory3/state/x`);
    expect(missing.err).toMatch(/No such file or directory\n.*Is a directory\n.*Not a directory\n$/s);
    await sh(`ln -s . ${join(dir, 'proc')}/x`); // refused; the tree stays as it is
    expect((await sh(`ls ${dir}`)).out).toBe('proc\nsys\n');
    const one = await sh(
      `stat -c %i ${memory}/memory3/state; stat -c %i ${memory}/memory3/state; ls -i ${memory}/memory3 | grep state`,
    );
    const inos = one.out
      .trim()
      .split(/\s+/)
      .filter((w) => w !== 'state');
    expect(new Set(inos).size).toBe(1);
  });

  it('FU9 dd reads words far out in a file of words', async () => {
    const { dir } = await mounted();
    const got = await sh(`dd if=${dir}/proc/kpageflags bs=8 skip=1099511627775 count=1 2>/dev/null | od -An -tx8`);
    expect(got.out.trim()).toBe('000000ffffffffff');
    const whole = await sh(`dd if=${dir}/proc/kpageflags bs=1M count=4 2>/dev/null | tail -c 8 | od -An -td8`);
    expect(Number(whole.out)).toBe((4 * 1024 * 1024) / 8 - 1);
    expect((await sh(`dd if=${dir}/proc/kpageflags bs=4 count=1`)).err).toMatch(/Invalid argument/);
  });

  it('FU10 FU11 echo writes; what may not be opened is Permission denied, also for root', async () => {
    const { memory, tree } = await mounted();
    expect(await sh(`echo offline > ${memory}/memory3/state && cat ${memory}/memory3/state`)).toMatchObject({
      out: 'offline\n',
    });
    expect(tree.state[3]).toBe('offline');
    for (const [line, said] of [
      [`echo 1 > ${memory}/memory3/removable`, /Permission denied/],
      [`cat ${memory}/probe`, /Permission denied/],
      [`echo x > ${memory}/new`, /Permission denied/],
      [`mkdir ${memory}/new`, /Operation not permitted/],
      [`rm -f ${memory}/memory3/state`, /Operation not permitted/],
      [`chmod 600 ${memory}/memory3/state`, /Operation not permitted/],
      [`echo bogus > ${memory}/memory3/state`, /Invalid argument|I\/O error/],
    ] as const) {
      const got = await sh(line);
      expect(got.code, line).not.toBe(0);
      expect(got.err, line).toMatch(said);
    }
  });

  it('FU13 FU14 going-offline is seen; the same and another file wait; each is ended by timeout', async () => {
    const { memory } = await mounted();
    const first = sh(`timeout 2 sh -c 'echo offline > ${memory}/memory2/state'`);
    await sleep(200);
    expect((await sh(`cat ${memory}/memory2/state`)).out).toBe('going-offline\n');
    const beganMs = performance.now();
    const others = await Promise.all([
      sh(`timeout 0.3 sh -c 'echo online > ${memory}/memory2/state'`),
      sh(`timeout 0.3 sh -c 'echo offline > ${memory}/memory3/state'`),
      sh(`echo online > ${memory}/auto_online_blocks`),
    ]);
    expect(others.map((o) => o.code)).toEqual([124, 124, 0]);
    expect(performance.now() - beganMs).toBeLessThan(1500); // not until the first is over
    expect((await sh(`cat ${memory}/memory2/state ${memory}/memory3/state`)).out).toBe('going-offline\nonline\n');
    expect((await first).code).toBe(124);
    expect((await sh(`cat ${memory}/memory2/state`)).out).toBe('online\n');
  });

  it('FU15 a write that takes too long is told Connection timed out, and tools that repeat EINTR go on', async () => {
    const { memory } = await mounted(new FakeKernel(), { writeTimeoutMs: 200 });
    const got = await sh(`printf offline | dd of=${memory}/memory2/state conv=notrunc status=none`);
    expect(got.err).toMatch(/Connection timed out/);
    expect((await sh(`cat ${memory}/memory2/state`)).out).toBe('online\n');
  });

  it('FU24 200 readers at once are answered while a write runs', async () => {
    const { memory, dir, m } = await mounted();
    const writer = sh(`echo offline > ${memory}/memory2/state`); // until the tree is unmounted
    await sleep(100);
    const line = `i=0; while [ $i -lt 200 ]; do cat ${memory}/memory2/state ${dir}/proc/zoneinfo > /dev/null || echo no & i=$((i + 1)); done; wait`;
    expect(await sh(line)).toMatchObject({ code: 0, out: '', err: '' });
    expect(m.held.writes).toBe(1);
    expect((await sh(`cat ${memory}/memory2/state`)).out).toBe('going-offline\n');
    await m.unmount();
    expect((await writer).code).not.toBe(0);
  });

  it('FU5 what the kernel was told it forgets: nothing piles up', async () => {
    const { memory, m } = await mounted();
    for (let k = 0; k < 10; k++) await sh(`cat ${memory}/memory*/state > /dev/null; ls -lR ${memory} > /dev/null`);
    await until(
      () => m.held.files === 0 && m.held.directories === 0,
      2000,
      () => `quiet: ${JSON.stringify(m.held)}`,
    );
    expect(m.held.inodes).toBeLessThan(200); // the tree has about 70 files
  });
});

describe('coming and going', () => {
  it('FU18 twenty mounts in a row leave nothing behind: no mount, process, descriptor or listener', async () => {
    const dir = scratch();
    const listeners = process.listenerCount('exit');
    const pids: number[] = [];
    for (let k = 0; k < 20; k++) {
      const got = await mountFuse(new FakeKernel(), dir);
      if (!got.ok) throw new Error(got.error.sentence);
      expect((await sh(`cat ${dir}${M}/memory3/state`)).out).toBe('online\n');
      pids.push(got.value.watchdogPid ?? 0);
      expect((await got.value.unmount()).error).toBeUndefined();
      expect(ourMounts(dir)).toEqual([]);
    }
    expect(process.listenerCount('exit')).toBe(listeners);
    const gone = (pid: number): boolean => {
      try {
        return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
      } catch {
        return true;
      }
    };
    await until(
      () => pids.every(gone),
      2000,
      () => 'end of the watchdogs',
    );
    const open = await sh(`ls -l /proc/${process.pid}/fd | grep -c /dev/fuse`);
    expect(open.out.trim()).toBe('0');
  });

  it('FU18 a file that is open, and a write under way, do not keep the tree mounted', async () => {
    const { dir, m, memory } = await mounted();
    const writer = sh(`bash -c 'echo offline > ${memory}/memory2/state'`);
    const holder = sh(`exec 3< ${memory}/memory3/state; cd ${memory}; sleep 1; cat <&3`);
    await sleep(200);
    expect((await m.unmount()).error).toBeUndefined();
    expect(ourMounts(dir)).toEqual([]);
    expect((await writer).err).toMatch(/Interrupted system call/);
    expect((await holder).code).not.toBe(0);
  });

  it('FU18 somebody else’s umount ends it', async () => {
    const { dir, m } = await mounted();
    expect((await sh(`umount ${dir}`)).code).toBe(0);
    expect((await m.closed).error).toBeUndefined();
  });

  it('FU18 SIGTERM unmounts; the process ends by itself', async () => {
    const dir = scratch();
    const s = start(server, [dir]);
    await s.line();
    s.child.kill('SIGTERM');
    expect(await s.code).toBe(0);
    expect(ourMounts(dir)).toEqual([]);
  });

  for (const [how, end, code] of [
    ['kill -9', 'SIGKILL', -2],
    ['SIGINT without a handler', 'SIGINT', -2],
    ['process.exit', 'exit', 7],
    ['an exception', 'throw', 1],
  ] as const)
    it(`FU19 after ${how} nothing is mounted within two seconds`, async () => {
      const dir = scratch();
      const s = start(server, [dir]);
      await s.line();
      expect(ourMounts(dir)).toHaveLength(1);
      const stuck = sh(`echo offline > ${dir}${M}/memory2/state`); // a write under way must not hold it
      await sleep(200);
      const beganMs = performance.now();
      if (end === 'exit' || end === 'throw') s.say(end);
      else s.child.kill(end);
      expect(await s.code).toBe(code);
      await until(
        () => ourMounts(dir).length === 0,
        2000,
        () => 'end of the mount',
      );
      expect(performance.now() - beganMs).toBeLessThan(2000);
      expect((await stuck).code).not.toBe(0);
    });

  it('FU19 a bug of the tree ends the mount, and is told', async () => {
    const tree = new FakeKernel();
    const { dir, m } = await mounted(tree);
    tree.bugAt = '/proc/uptick';
    expect((await sh(`cat ${dir}/proc/uptick`)).code).not.toBe(0);
    expect(String((await m.closed).error)).toMatch(/the tree has a bug/);
    expect(ourMounts(dir)).toEqual([]);
  });
});

describe('the guard', () => {
  it('FU17 refuses /, /sys, /proc, /dev and what is below, also through a link, and writes nothing', async () => {
    const dir = scratch();
    symlinkSync('/sys/kernel', join(dir, 'link'));
    for (const place of [
      '/',
      '/sys',
      M,
      '/proc',
      '/proc/self',
      '/dev',
      '/dev/shm',
      '/sys/../sys/',
      join(dir, 'link'),
    ]) {
      const got = await mountFuse(new FakeKernel(), place);
      expect(got.ok ? 'mounted' : got.error.reason, place).toBe('forbidden-place');
    }
    expect(ourMounts(M)).toEqual([]);
  });

  it('FU17 refuses what is missing, no directory, or not empty', async () => {
    const dir = scratch();
    writeFileSync(join(dir, 'file'), 'mine');
    mkdirSync(join(dir, 'full'));
    writeFileSync(join(dir, 'full/file'), 'mine');
    const reasonOf = async (place: string): Promise<string> => {
      const got = await mountFuse(new FakeKernel(), join(dir, place));
      return got.ok ? 'mounted' : got.error.reason;
    };
    expect(await reasonOf('nothing')).toBe('not-a-directory');
    expect(await reasonOf('file')).toBe('not-a-directory');
    expect(await reasonOf('full')).toBe('not-empty');
    expect(readFileSync(join(dir, 'full/file'), 'utf8')).toBe('mine');
  });

  it('FU25 a place where a tree is alive is refused; one whose server has died is used again', async () => {
    const { dir } = await mounted();
    const second = await mountFuse(new FakeKernel(), dir);
    expect(second.ok ? 'mounted' : second.error.reason).toBe('in-use');

    const other = scratch();
    const s = start(server, [other]);
    const { watchdogPid } = JSON.parse(await s.line()) as { watchdogPid: number };
    process.kill(watchdogPid, 'SIGKILL'); // the one this test's own server has started
    s.child.kill('SIGKILL');
    await s.code;
    expect(ourMounts(other)).toHaveLength(1);
    const again = await mountFuse(new FakeKernel(), other);
    if (!again.ok) throw new Error(again.error.sentence);
    expect((await sh(`cat ${other}${M}/memory3/state`)).out).toBe('online\n');
    await again.value.unmount();
    expect(ourMounts(other)).toEqual([]);
  });

  it('FU17 a directory with a blank and a backslash in its name is mounted, and detached by the watchdog', async () => {
    const dir = join(scratch(), 'a b\\c');
    mkdirSync(dir);
    const s = start(server, [dir]);
    await s.line();
    s.child.kill('SIGKILL');
    await until(
      () => !readFileSync('/proc/self/mounts', 'utf8').includes('a\\040b\\134c'),
      2000,
      () => 'end of the mount',
    );
  });
});

describe('a command in the namespace', () => {
  const inside = async (line: string): Promise<{ code: number; out: string; err: string }> => {
    const { m, tree } = await mounted();
    const child = spawnInside({ mounted: m, tree, command: ['sh', '-c', line], stdio: 'pipe' });
    let out = '';
    let err = '';
    child.stdout?.on('data', (c: Buffer) => {
      out += c.toString();
    });
    child.stderr?.on('data', (c: Buffer) => {
      err += c.toString();
    });
    const code = await new Promise<number>((resolve) => child.on('close', (c) => resolve(c ?? -1)));
    return { code, out, err };
  };

  it('FU21 lsmem and chmem drive the tree, and chmem -d on a busy block prints the kernel’s EBUSY', async () => {
    const got = await inside(`export LC_ALL=C
      lsmem -n -o RANGE,STATE --split=STATE --summary=never
      chmem -d -b 3; echo $?; chmem -d -b 1; echo $?; chmem -d -b 0; echo $?
      lsmem -n -o RANGE,STATE --split=STATE --summary=never; chmem -e -b 3; echo $?; cat ${M}/memory3/state`);
    expect(got.out).toBe(
      `0x0000000000000000-0x000000003fffffff online
0
1
1
0x0000000000000000-0x0000000017ffffff  online
0x0000000018000000-0x000000001fffffff offline
0x0000000020000000-0x000000003fffffff  online
0
online
`,
    );
    expect(got.err).toMatch(/Memory Block 1 .* disable failed: Device or resource busy/);
    expect(got.err).toMatch(/Memory Block 0 .* disable failed: Invalid argument/);
    expect(realTree()).toBe(box.before);
  });

  it('FU22 the rest of /sys and /proc/sys is read-only, files of /proc are the tree’s, and the machine’s stay as they are', async () => {
    const got =
      await inside(`head -c 23 /proc/zoneinfo; echo 1 > /sys/kernel/mm/ksm/run; echo 1 > /proc/sys/vm/compact_memory
      stat -f -c %T ${M} /sys/kernel /sys/devices/system/node; grep -c ' ${M} fuse.dimmer' /proc/mounts`);
    expect(got.out).toBe('Node 0, zone   Normal\nNfuseblk\nsysfs\nfuseblk\n1\n');
    expect(got.err.match(/Read-only file system/g)).toHaveLength(2);
    expect(readFileSync('/proc/zoneinfo', 'utf8')).not.toMatch(/^Node 0, zone {3}Normal\nNode 0, zone {3}Normal\n/);
    expect((await sh(`stat -f -c %T ${M}`)).out).toBe('sysfs\n');
    expect(realTree()).toBe(box.before);
  });

  it('FU22 the guard does not start the command where something else would be seen', async () => {
    const { m, tree } = await mounted();
    const code = (mountedAs: { dir: string; tag: string }): Promise<number> =>
      new Promise((resolve) =>
        spawnInside({ mounted: mountedAs, tree, command: ['sh', '-c', 'exit 0'], stdio: 'pipe' }).on('close', (c) =>
          resolve(c ?? -1),
        ),
      );
    expect(await code(m)).toBe(0);
    expect(await code({ dir: m.dir, tag: `${m.tag}x` })).toBe(4); // another mount's tag
    expect(await code({ dir: '', tag: m.tag })).toBe(4); // "" binds the real tree upon itself: the guard sees sysfs
    expect(await code({ dir: '/nowhere', tag: m.tag })).toBe(4);
  });
});

describe('dimmer mount', () => {
  it('FU23 the exit code is the command’s, and nothing is left', async () => {
    const dir = scratch();
    const run = (...words: string[]): Promise<number> => start(cli, ['mount', dir, ...words]).code;
    expect(await run('--', 'sh', '-c', 'exit 37')).toBe(37);
    expect(await run('--', 'no-such-command')).toBe(127);
    expect(await run('--', 'sh', '-c', 'kill -TERM $$')).toBe(128 + 15);
    expect(await run('--', 'chmem', '-d', '-b', '1')).toBe(1);
    expect(await run('--', 'chmem', '-d', '-b', '3')).toBe(0);
    expect(ourMounts(dir)).toEqual([]);
    expect(realTree()).toBe(box.before);
  });

  it('FU23 without a command it serves until a signal, and says 128 + its number', async () => {
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const) {
      const dir = scratch();
      const s = start(cli, ['mount', dir]);
      await until(
        () => s.err().includes('mounted on'),
        5000,
        () => `mount: ${s.err()}`,
      );
      expect((await sh(`lsmem --sysroot ${dir} --summary=only`)).out).toMatch(/Total online memory: +1G/);
      s.child.kill(signal);
      expect(await s.code).toBe(code);
      expect(ourMounts(dir)).toEqual([]);
    }
  });

  it('FU23 SIGTERM is passed on to the command', async () => {
    const dir = scratch();
    const s = start(cli, [
      'mount',
      dir,
      '--',
      'sh',
      '-c',
      `trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done`,
    ]);
    expect(await s.line()).toBe('ready');
    s.child.kill('SIGTERM');
    expect(await s.code).toBe(9);
    expect(ourMounts(dir)).toEqual([]);
  });

  it('FU23 a place that is refused is one sentence and exit 2', async () => {
    const s = start(cli, ['mount', M]);
    expect(await s.code).toBe(2);
    expect(s.err()).toBe(`dimmer: ${M} is never mounted upon; choose an empty directory\n`);
    const late = start(cli, ['mount', '--write-timeout', '0', scratch()]);
    expect(await late.code).toBe(2);
  });

  it('FU21 a bundled capture of a real guest is driven by the real tools, through the command itself', async () => {
    const dir = scratch();
    const home = scratch();
    mkdirSync(join(home, 'dist/cli'), { recursive: true });
    cpSync(join(ROOT, 'package.json'), join(home, 'package.json')); // its version is read from there
    const dimmer = await bundled('../../src/cli/main', join(home, 'dist/cli'), 'main');
    const run = async (line: string): Promise<Ran> => {
      const demo = join(ROOT, 'test/golden/demo.dimmer');
      const s = await sh(`${process.execPath} ${dimmer} mount ${dir} -q --from ${demo} -- sh -c '${line}'`);
      expect(ourMounts(dir)).toEqual([]);
      return s;
    };
    const ls = await run(
      'lsmem --summary=only -b; lsmem -a -n -b --summary=never -o BLOCK,STATE,NODE,ZONES | tail -n 1',
    );
    expect(ls.out.replace(/ +/g, ' ')).toBe(
      'Memory block size: 134217728\nTotal online memory: 4294967296\nTotal offline memory: 0\n 47 online 1 Movable\n',
    );
    const ch = await run(
      `chmem -d -b 47; chmem -d -b 46 && cat ${M}/memory46/state; chmem -d -b 15; grep MemTotal /proc/meminfo`,
    );
    expect(ch.err).toMatch(/Memory Block 47 .*: Device or resource busy\n.*Memory Block 15 .*: Invalid argument\n/);
    expect(ch.out).toMatch(/^offline\nMemTotal: /);
    const total = async (before: string): Promise<number> =>
      Number(/MemTotal: +(\d+) kB/.exec((await run(`${before} grep MemTotal /proc/meminfo`)).out)?.[1]);
    expect((await total('')) - (await total('chmem -d -b 46;'))).toBe(131_072);
    expect(realTree()).toBe(box.before);
  });

  it('FU20 without the device, or without the right to it, it is one sentence and exit 4, and nothing is mounted', async () => {
    const dir = scratch();
    const node = `${process.execPath} ${cli} mount ${dir}`;
    const hidden = await sh(`unshare -m sh -c 'mount -t tmpfs none /dev && exec ${node}'`);
    expect(hidden).toEqual({
      code: 4,
      out: '',
      err: 'dimmer: /dev/fuse is not there (ENOENT); the kernel needs FUSE: modprobe fuse\n',
    });
    const denied = await sh(`setpriv --reuid 65534 --clear-groups ${node}`);
    expect(denied.code).toBe(4);
    expect(denied.err).toMatch(/^dimmer: .*(mounting needs root|superuser)/);
    expect(ourMounts(dir)).toEqual([]);
  });
});
