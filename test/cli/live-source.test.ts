// Live sources: commands on a guest that has to be read first, with a host that answers, fails, or takes its time.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { err, ok, type Result } from '../../src/base/result.ts';
import type { Capture } from '../../src/capture/capture.ts';
import { kindOfSource } from '../../src/cli/live-source.ts';
import { parseTime } from '../../src/cli/options.ts';
import { runProgram } from '../../src/cli/program.ts';
import type { Host, HostFailure, Limits } from '../../src/control/host.ts';
import { whyNoFuse } from '../../src/hosts/fuse/index.ts';
import { readCapture } from '../../src/hosts/linux/read-capture.ts';
import { DEMO, runCli, scratchDirectory } from './run-cli.ts';

const GUEST = 'qemu:/run/vm.qmp,agent=/run/vm.qga';
const UNUSED = async (): Promise<never> => Promise.reject(new Error('a capture is all that is asked for'));

type Asked = { opened: string[]; limits: Limits[]; closed: number };

/** A host that has a capture, or whatever `answer` says. */
function fakeHosts(answer: (limits: Limits) => Promise<Result<Capture, HostFailure>>): {
  asked: Asked;
  openHost: (source: string) => Result<Host, never>;
} {
  const asked: Asked = { opened: [], limits: [], closed: 0 };
  const host: Host = {
    info: UNUSED,
    observe: UNUSED,
    act: UNUSED,
    watch: UNUSED,
    capture: (limits) => {
      asked.limits.push(limits);
      return answer(limits);
    },
    close: async () => {
      asked.closed++;
    },
  };
  return {
    asked,
    openHost: (source) => {
      asked.opened.push(source);
      return ok(host);
    },
  };
}

async function demoCapture(): Promise<Result<Capture, HostFailure>> {
  const read = readCapture(DEMO, { now: () => new Date(0) });
  if (!read.ok) throw new Error(read.error.sentence);
  return ok(read.value);
}

/** As main.ts runs it: the exit code comes when all is done. */
async function run(
  argv: readonly string[],
  hosts: { openHost: (source: string) => Result<Host, never> },
  terminal = false,
): Promise<{ code: number; out: string; err: string }> {
  let out = '';
  let said = '';
  let late: Promise<number> | undefined;
  const code = runProgram(argv, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      said += text;
    },
    env: { COLUMNS: '120' },
    outIsTty: false,
    errIsTty: terminal,
    columns: undefined,
    platform: 'linux',
    now: () => new Date(0),
    later: (promise) => {
      late = promise;
    },
    openHost: hosts.openHost,
  });
  return { code: (await late) ?? code, out, err: said };
}

const failing = (kind: HostFailure['kind'], sentence: string): ReturnType<typeof fakeHosts> =>
  fakeHosts(async () => err({ kind, sentence }));

describe('a guest as a source', () => {
  it.each([
    ['check', '--summary'],
    ['explain', 'block:2'],
    ['ls', 'zones'],
    ['plan', 'remove', 'block:2', '--with', 'compaction'],
  ])('LV1 dimmer %s says of a guest what it says of its capture', async (...argv) => {
    const hosts = fakeHosts(demoCapture);
    const live = await run([...argv, '--from', GUEST], hosts);
    const saved = runCli([...argv, '--from', DEMO]);
    expect(live).toEqual(saved);
    expect(hosts.asked).toMatchObject({ opened: [GUEST], closed: 1 });
  });

  it('LV1 capture writes it to a file that is read as any other', async () => {
    const file = join(scratchDirectory(), 'guest.dimmer');
    const ran = await run(['capture', '--from', GUEST, '-o', file], fakeHosts(demoCapture));
    expect(ran).toMatchObject({ code: 0, out: '' });
    expect(runCli(['ls', 'blocks', '--from', file]).out).toBe(runCli(['ls', 'blocks', '--from', DEMO]).out);
  });

  it('LV1 mount, whose exit code comes later in any case, comes by its guest as well', async (context) => {
    const lacking = whyNoFuse();
    context.skip(lacking !== undefined, lacking?.sentence);
    const hosts = fakeHosts(demoCapture);
    const ran = await run(['mount', '/nonexistent/dir', '-q', '--from', GUEST], hosts);
    expect(ran).toMatchObject({ code: 2, err: expect.stringMatching(/^dimmer: \/nonexistent\/dir does not exist/) });
    expect(hosts.asked).toMatchObject({ opened: [GUEST], closed: 1 });
  });

  it('LV2 a line that is not understood is refused before anybody is asked', async () => {
    for (const argv of [
      ['check', '32'],
      ['check', '--no-such-option'],
      ['check', '-o', 'NOSUCH'],
      ['check', '--timeout', 'soon'],
      ['chek'],
    ]) {
      const hosts = fakeHosts(demoCapture);
      const ran = await run([...argv, '--from', GUEST], hosts);
      expect({ argv, code: ran.code, out: ran.out, asked: hosts.asked.opened }).toEqual({
        argv,
        code: 2,
        out: '',
        asked: [],
      });
      expect(ran.err).toMatch(/^dimmer: [^\n]+\n$/);
    }
  });

  it.each([
    ['unreachable', 2],
    ['disconnected', 2],
    ['protocol', 2],
    ['refused', 2],
    ['closed', 2],
    ['denied', 4],
    ['unsupported', 4],
  ] as const)('LV3 a fetch that is %s is one sentence that names the guest, and exit %i', async (kind, code) => {
    const hosts = failing(kind, 'that is how it went.');
    const ran = await run(['check', '--from', GUEST], hosts);
    expect(ran).toEqual({ code, out: '', err: `dimmer: ${GUEST}: that is how it went\n` });
    expect(hosts.asked.closed).toBe(1);
  });

  it('LV3 of the deadline and of Ctrl-C it says what they were about', async () => {
    const late = await run(['check', '--from', GUEST], failing('timeout', 'no answer within 0 ms'));
    const said = `dimmer: ${GUEST}: it was not read within 1min (--timeout gives it longer): no answer within 0 ms\n`;
    expect(late).toEqual({ code: 124, out: '', err: said });
    const stopped = await run(['check', '--from', GUEST], failing('cancelled', 'cancelled before it was sent'));
    expect(stopped).toEqual({ code: 130, out: '', err: `dimmer: ${GUEST}: reading it was interrupted\n` });
  });

  it('LV3 no file appears when the fetch fails', async () => {
    const file = join(scratchDirectory(), 'guest.dimmer');
    const ran = await run(['capture', '--from', GUEST, '-o', file], failing('unreachable', 'nobody answers'));
    expect(ran.code).toBe(2);
    expect(existsSync(file)).toBe(false);
  });

  it('LV4 the deadline is a minute, or what --timeout says', async () => {
    const hosts = fakeHosts(demoCapture);
    await run(['ls', 'nodes', '--from', GUEST], hosts);
    await run(['ls', 'nodes', '--from', GUEST, '--timeout', '1500ms'], hosts);
    expect(hosts.asked.limits.map((l) => l.deadlineMs)).toEqual([60_000, 1500]);
    expect(['90', '90s', '1.5m', '2min', '1h', '250ms'].map(parseTime)).toEqual([
      90_000, 90_000, 90_000, 120_000, 3_600_000, 250,
    ]);
    expect(['', '0', '-1', 's', '5 m', '25h', 'soon', '1e9'].map(parseTime)).toEqual(Array(8).fill(undefined));
  });

  it('LV5 Ctrl-C ends a fetch: exit 130, and the handlers are gone', async () => {
    const before = process.listenerCount('SIGINT');
    const hosts = fakeHosts(
      ({ signal }) =>
        new Promise((resolve) => {
          signal?.addEventListener('abort', () =>
            resolve(err({ kind: 'cancelled', sentence: 'it was cancelled' } as const)),
          );
          setTimeout(() => process.emit('SIGINT'), 5);
        }),
    );
    const ran = await run(['check', '--from', GUEST], hosts);
    expect(ran).toEqual({ code: 130, out: '', err: `dimmer: ${GUEST}: reading it was interrupted\n` });
    expect(process.listenerCount('SIGINT')).toBe(before);
  });

  it('LV6 progress goes to a terminal, is taken away again, and --quiet silences it', async () => {
    const loud = await run(['ls', 'nodes', '--from', GUEST], fakeHosts(demoCapture), true);
    expect(loud.err).toContain(`reading ${GUEST}`);
    expect(loud.err.split('\r').pop()?.trim()).toBe('');
    const quiet = await run(['ls', 'nodes', '--from', GUEST, '-q'], fakeHosts(demoCapture), true);
    expect(quiet.err).toBe('');
  });

  it('LV7 without a process of its own nobody is asked, and that is said', () => {
    expect(runCli(['check', '--from', GUEST])).toEqual({
      code: 4,
      out: '',
      err: `dimmer: ${GUEST}: guests cannot be reached from here\n`,
    });
  });
});

describe('what --from names', () => {
  it('LV8 host is this machine; a scheme that is none is refused with what was probably meant', () => {
    expect(kindOfSource('host')).toEqual(ok('host'));
    for (const path of ['host.dimmer', './host', '/dev/null', './qemu:x', 'a/kvm:b', 'C:x', 'vm.yaml', '1:2'])
      expect(kindOfSource(path)).toEqual(ok('path'));
    for (const guest of [GUEST, 'qemu:127.0.0.1:4444', 'libvirt:web1', 'proxmox:100'])
      expect(kindOfSource(guest)).toEqual(ok('guest'));
    const said = (from: string): string => {
      const { code, out, err: text } = runCli(['check', '--from', from]);
      expect({ code, out }).toEqual({ code: 2, out: '' });
      return text;
    };
    expect(said('kvm:/run/vm.qmp')).toBe(
      'dimmer: "kvm:" is no source: did you mean qemu:QMP_SOCKET,agent=SOCKET?; a file of that name is ./kvm:/run/vm.qmp\n',
    );
    expect(said('virsh:web1')).toMatch(/did you mean libvirt:DOMAIN\?/);
    expect(said('host:')).toMatch(/did you mean host\?/);
    expect(said('ssh:db1')).toMatch(/capture it there/);
    expect(said('xen:dom1')).toMatch(/a live machine is host, qemu:/);
    expect(said('qemu:')).toBe('dimmer: qemu: names no guest; it is written qemu:QMP_SOCKET,agent=SOCKET\n');
  });

  it('LV8 a guest and a directory at once are refused', () => {
    expect(runCli(['check', '--from', GUEST, '--sysroot', '/tmp']).code).toBe(2);
  });
});
