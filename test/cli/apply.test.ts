// dimmer apply: the whole command against a twin host: what is asked, printed, written, and with which exit code it ends.
// Rules: docs/spec/commands.md. What the executor promises is docs/spec/executor.md.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import type { Io } from '../../src/cli/io.ts';
import { runProgram } from '../../src/cli/program.ts';
import type { Host } from '../../src/control/host.ts';
import type { TwinHost } from '../../src/hosts/twin/twin-host.ts';
import type { Plan } from '../../src/plan/plan.ts';
import { methodsOf } from '../hosts/host.cases.ts';
import { ROOT } from '../support/source-files.ts';
import { D1, fill, removalPlan, stateOf, twinWorld, type WorldOptions } from '../support/twin-world.ts';
import { scratchDirectory } from './run-cli.ts';
import { closed } from './schema.ts';

const NAME = 'qemu:/run/vm.qmp,agent=/run/vm.qga';

type Ran = { readonly code: number; readonly out: string; readonly err: string };

async function run(argv: readonly string[], host: Host | undefined, io: Partial<Io> = {}): Promise<Ran> {
  let [out, err] = ['', ''];
  let later: Promise<number> | undefined;
  const first = runProgram(argv, {
    out: (text) => (out += text),
    err: (text) => (err += text),
    env: { COLUMNS: '120', DIMMER_LOCK_DIR: scratchDirectory() },
    outIsTty: false,
    errIsTty: false,
    columns: undefined,
    platform: 'linux',
    now: () => new Date(0),
    later: (promise) => (later = promise),
    openHost: () => {
      if (host === undefined) throw new Error('nobody was to be connected to');
      return { ok: true, value: host };
    },
    ...io,
  });
  return { code: (await later) ?? first, out, err };
}

type World = { readonly host: TwinHost; readonly plan: string; readonly journal: string; readonly dir: string };

/** A guest whose DIMM d1 is to leave, and the plan for it in a file. */
function world(options: WorldOptions = {}, change: (p: Plan) => Plan = (p) => p): World {
  const host = twinWorld({ name: NAME, ...options });
  const dir = scratchDirectory();
  const plan = join(dir, 'plan.json');
  const made = removalPlan(host);
  writeFileSync(plan, JSON.stringify(change({ ...made, host: { kind: 'qemu', name: NAME, kernel: '6.1' } })));
  return { host, plan, dir, journal: join(dir, 'x.journal') };
}

const sound = (host: TwinHost): void => expect(host.machine.check()).toEqual([]);

describe('dimmer apply', () => {
  it('Q22 does the plan on the machine that it names, says each step, keeps the journal, ends with 0', async () => {
    const w = world();
    const ran = await run(['apply', w.plan, '--yes', '--journal', w.journal], w.host);
    expect([ran.code, ran.err]).toEqual([0, '']);
    expect(ran.out).toContain(`${NAME}, as the plan has it: Linux 6.1\n`);
    expect(ran.out).toMatch(/^ +1\/3 done +offline-block 41 +\d/m);
    expect(ran.out).toMatch(/^ +3\/3 done +remove-dimm/m);
    expect(ran.out).toMatch(/\nDone: dimm:d1 is done\n$/);
    expect(stateOf(w.host).some((l) => l.startsWith('dimm '))).toBe(false);
    expect(readFileSync(w.journal, 'utf8').trim().split('\n').length).toBeGreaterThan(8);
    sound(w.host);
  });

  it('Q22 --json is one document that says the same', async () => {
    const w = world();
    const ran = await run(['apply', w.plan, '--yes', '--journal', w.journal, '--json'], w.host);
    const document = JSON.parse(ran.out);
    expectSchema(document);
    expect(document).toMatchObject({ dimmer: 'apply', version: 1, source: NAME, end: 'done', exitCode: 0 });
    expect(document.units[0].steps.map((s: { result: string }) => s.result)).toEqual(['done', 'done', 'done']);
    sound(w.host);
  });

  it('Q23 a machine that is not as the plan assumes is told, with what differs, before anybody is asked: exit 3', async () => {
    const w = world();
    w.host.machine.offline(D1 as never);
    const before = stateOf(w.host);
    const ask = (): Promise<string> => Promise.reject(new Error('nobody is asked'));
    const ran = await run(['apply', w.plan, '--journal', w.journal], w.host, { ask });
    expect(ran.code).toBe(3);
    expect(ran.out).toContain('The plan is stale');
    expect(ran.out).toMatch(/now: +block 40 offline/);
    expect(ran.out).toMatch(/assumed: +block 40 online Movable/);
    expect([stateOf(w.host), existsSync(w.journal)]).toEqual([before, false]);
    sound(w.host);
  });

  it('Q24 asks on a terminal, and does nothing unless the answer is yes', async () => {
    for (const answer of ['', 'n', 'yess', undefined]) {
      const w = world();
      const before = stateOf(w.host);
      const questions: string[] = [];
      const ask = (q: string): Promise<string | undefined> => {
        questions.push(q);
        return Promise.resolve(answer);
      };
      const ran = await run(['apply', w.plan, '--journal', w.journal], w.host, { ask });
      expect([ran.code, questions]).toEqual([130, [`Do it on ${NAME}? [y/N] `]]);
      expect(ran.err).toBe('dimmer: nothing was done\n');
      expect([stateOf(w.host), existsSync(w.journal)]).toEqual([before, false]);
    }
    const w = world();
    const ran = await run(['apply', w.plan, '--journal', w.journal], w.host, { ask: () => Promise.resolve(' Y\n') });
    expect(ran.code).toBe(0);
  });

  it('Q24 what is refused before anything is connected is one sentence', async () => {
    const w = world();
    writeFileSync(join(w.dir, 'other'), 'hello\n');
    writeFileSync(w.journal, 'x');
    const mine = JSON.parse(readFileSync(w.plan, 'utf8')) as Plan;
    const save = (name: string, plan: object): string => {
      writeFileSync(join(w.dir, name), JSON.stringify(plan));
      return join(w.dir, name);
    };
    const stays = save('no.json', { ...mine, feasible: false, summary: 'block 3 stays' });
    const saved = save('saved.json', { ...mine, host: { kind: 'capture', name: 'host.dimmer', kernel: '6.1' } });
    const here = save('here.json', { ...mine, host: { kind: 'linux', name: 'this machine', kernel: '6.1' } });
    for (const [argv, code, sentence] of [
      [[], 2, 'name a plan, or a journal with --resume'],
      [[w.plan, '--resume', w.journal], 2, 'a plan and --resume exclude each other'],
      [['--resume', w.journal, '--dry-run'], 2, '--dry-run and --journal are for plans'],
      [[w.plan, '--yes', '--timeout', 'soon'], 2, '--timeout takes a time'],
      [[w.plan], 2, 'there is no terminal to ask at: say --yes'],
      [[w.plan, '--yes', '--journal', w.journal], 2, `${w.journal} exists: go on with it by --resume`],
      [[w.plan, '--yes', '--from', '/tmp/x.dimmer'], 2, 'a capture, which cannot be acted on'],
      [[saved, '--yes'], 2, 'was made on a capture (host.dimmer)'],
      [[here, '--yes'], 2, 'say so with --apply'],
      [[stays, '--yes'], 3, 'the plan does not reach its goal: block 3 stays'],
      [[join(w.dir, 'gone.json'), '--yes'], 2, 'cannot be read (ENOENT)'],
      [[join(w.dir, 'other'), '--yes'], 2, 'other: '],
      [['--resume', join(w.dir, 'other'), '--yes'], 2, 'line 1 has no sum'],
    ] as const) {
      const ran = await run(['apply', ...argv], undefined);
      expect([ran.code, ran.out], argv.join(' ')).toEqual([code, '']);
      expect(ran.err).toContain(sentence);
      expect(ran.err).toMatch(/^dimmer: [^\n]+\n$/);
    }
  });

  it('Q25 a refusal is undone and told: exit 5, every block in its zone, and what to type next', async () => {
    const w = world({ blocks: ['Normal', 'Normal'] });
    fill(w.host, D1, 'slab', 3);
    const before = stateOf(w.host);
    const ran = await run(['apply', w.plan, '--yes', '--journal', w.journal], w.host);
    expect(ran.code).toBe(5);
    expect(ran.out).toMatch(/^ +2\/3 refused +offline-block 40\n +offline block 40: EBUSY/m);
    expect(ran.out).toMatch(/^ +undone +online block 41 \(kernel\)/m);
    expect(ran.out).toContain('Refused, and everything is as it was');
    expect(ran.out).toContain('Next: plan again: dimmer plan remove test');
    expect(stateOf(w.host)).toEqual(before);
    sound(w.host);
  });

  it('Q26 Ctrl-C stops at a safe point, says so, and what was under way is undone: exit 130', async () => {
    const w = world();
    const before = stateOf(w.host);
    let press: (() => void) | undefined;
    const host: Host = {
      ...methodsOf(w.host),
      act: (action, limits) => {
        if (action.do === 'offline-block' && action.block === D1) press?.();
        return w.host.act(action, limits);
      },
    };
    const ran = await run(['apply', w.plan, '--yes', '--journal', w.journal], host, {
      onInterrupt: (stop) => {
        press = stop;
        return () => {};
      },
    });
    expect(ran.code).toBe(130);
    expect(ran.err).toContain(`stopping at a safe point, what is under way is undone; again to leave at once`);
    expect(ran.err).toContain(`--resume ${w.journal}`);
    expect(stateOf(w.host)).toEqual(before);
    sound(w.host);
  });

  it('Q27 a journal that was cut off is gone on with: exit 0, and not a second time', async () => {
    const w = world();
    expect((await run(['apply', w.plan, '--yes', '--journal', w.journal], w.host)).code).toBe(0);
    const whole = readFileSync(w.journal, 'utf8');
    // Killed after the first step: its outcome is written, the next line is torn.
    const lines = whole.split('\n');
    const v = world();
    v.host.machine.offline((D1 + 1) as never);
    writeFileSync(v.journal, `${lines.slice(0, 3).join('\n')}\n${lines[3]?.slice(0, 20)}`);
    const ran = await run(['apply', '--resume', v.journal, '--yes'], v.host);
    expect([ran.code, ran.err]).toEqual([0, '']);
    expect(ran.out).toMatch(/^ +3\/3 done/m);
    expect(ran.out).not.toMatch(/^ +1\/3 /m);
    expect(stateOf(v.host).some((l) => l.startsWith('dimm '))).toBe(false);
    const again = await run(['apply', '--resume', v.journal, '--yes'], v.host);
    expect(again.out).toContain('this execution has ended (done)');
    sound(v.host);
  });

  it('Q28 --dry-run looks and compares, writes nothing, and changes nothing', async () => {
    const w = world();
    const before = stateOf(w.host);
    const ran = await run(['apply', w.plan, '--dry-run'], w.host);
    expect([ran.code, ran.err]).toEqual([0, '']);
    expect(ran.out).toContain('Dry run, nothing was done: the machine is as the plan assumes; 3 steps\n');
    expect(ran.out).toMatch(/\nOn a copy of the machine it goes through\.\n$/);
    expect(stateOf(w.host)).toEqual(before);
    expect(readdirSync(w.dir)).toEqual(['plan.json']);
    sound(w.host);
  });

  it('Q28 --dry-run: what a copy of the machine refuses is told, exit 3; what cannot be tried is said', async () => {
    const w = world({ blocks: ['Normal', 'Normal'] });
    fill(w.host, D1, 'slab', 3);
    const again = world({ blocks: ['Normal', 'Normal'] });
    fill(again.host, D1, 'slab', 3);
    const before = stateOf(w.host);
    const ran = await run(['apply', w.plan, '--dry-run'], w.host);
    expect(ran.code).toBe(3);
    const document = JSON.parse((await run(['apply', again.plan, '--dry-run', '--json'], again.host)).out);
    expectSchema(document);
    expect(document).toMatchObject({ end: 'done', exitCode: 3, dryRun: true, copy: { goes: false } });
    expect(ran.out).toMatch(/\nOn a copy of the machine: step 2, offline-block 40: offline block 40: EBUSY/);
    expect(stateOf(w.host)).toEqual(before);
    const v = world();
    const blind: Host = {
      ...methodsOf(v.host),
      capture: () => Promise.resolve({ ok: false, error: { kind: 'denied', sentence: 'no page flags here' } }),
    };
    const told = await run(['apply', v.plan, '--dry-run'], blind);
    expect(told.code).toBe(0);
    expect(told.out).toMatch(/\nNot tried on a copy: no page flags here\n$/);
    sound(w.host);
  });

  it('Q29 --record writes down all that was asked and answered, and never over a file', async () => {
    const w = world();
    const file = join(w.dir, 'r.jsonl');
    expect((await run(['apply', w.plan, '--yes', '--journal', w.journal, '--record', file], w.host)).code).toBe(0);
    const lines = readFileSync(file, 'utf8').trim().split('\n');
    expect(lines.filter((l) => l.includes('"call":"act"')).length).toBe(3);
    const v = world();
    const again = await run(['apply', v.plan, '--yes', '--journal', v.journal, '--record', file], v.host);
    expect([again.code, again.err]).toEqual([2, `dimmer: ${file} cannot be made for the recording (EEXIST)\n`]);
  });
});

/** Closed, as test/cli/json.test.ts has it: what the schema does not name is an error. */
function expectSchema(document: unknown): void {
  const schema = JSON.parse(readFileSync(join(ROOT, 'docs/formats/apply.schema.json'), 'utf8'));
  const validate = new Ajv2020({ strict: true, allErrors: true }).compile(closed(schema) as object);
  expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
}
