// The program: its commands, and what becomes of a command line that is none.
//
//   argv ──> commander ──> a command's run(io, ...) ──> exit code
//                  └── does not understand it: one sentence on stderr, exit 2
//
// Runs in anyone's process: output goes to the Io it is given, and the exit code is a value. Synchronous throughout, so
// that Ctrl-C ends it at once, by the signal; what takes its time goes on afterwards (Io.later): `mount`, a prompt
// (`shell`), and every command on a guest, whose capture is fetched first (live-source.ts).

import { Command, CommanderError } from 'commander';
import { addApply } from './apply-command.ts';
import { addCapture } from './capture-command.ts';
import { addCheck } from './check-command.ts';
import { addCompletion } from './completion-command.ts';
import { addDemo } from './demo-command.ts';
import { addDoctor } from './doctor-command.ts';
import { EXIT } from './exit-code.ts';
import { addExplain } from './explain-command.ts';
import { addExport } from './export-command.ts';
import type { Io } from './io.ts';
import { fetchCapture, LiveSourceWanted } from './live-source.ts';
import { addLs } from './ls-command.ts';
import { addMap } from './map-command.ts';
import { addMount } from './mount-command.ts';
import { openTree } from './open-tree.ts';
import { complain } from './options.ts';
import { addPlan } from './plan-command.ts';
import { addPool } from './pool-command.ts';
import { addShell } from './shell-command.ts';
import { addSim } from './sim-command.ts';
import { addTop } from './top-command.ts';
import { addVerify } from './verify-command.ts';
import { VERSION } from './version.ts';

/**
 * Runs a command line. Where a command needs the capture of a guest first, that is fetched and the command run again: its
 * exit code comes later.
 * @param argv  without node and the script. @returns the exit code
 */
export function runProgram(argv: readonly string[], io: Io): number {
  const { later, openHost } = io;
  const again = async (e: unknown): Promise<number> => {
    if (!(e instanceof LiveSourceWanted) || openHost === undefined) throw e;
    const capture = await fetchCapture(io, e, openHost);
    if (!capture.ok) return complain(io, capture.error);
    let last: Promise<number> | undefined;
    const live = new Map([...(io.live ?? []), [e.source, capture.value]]);
    const code = runProgram(argv, { ...io, live, later: (promise) => (last = promise) });
    return last ?? code;
  };
  try {
    return runOnce(argv, later === undefined ? io : { ...io, later: (promise) => later(promise.catch(again)) });
  } catch (e) {
    if (!(e instanceof LiveSourceWanted)) throw e;
    if (later === undefined || openHost === undefined)
      return complain(io, { exit: EXIT.UNSUPPORTED, sentence: `${e.source}: guests cannot be reached from here` });
    later(again(e));
    return EXIT.OK;
  }
}

function runOnce(argv: readonly string[], io: Io): number {
  let code: number = EXIT.OK;
  const program = new Command('dimmer');
  program
    .description('Which memory can this machine give back, and what stands in the way?')
    .version(VERSION, '-V, --version')
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      outputError: (text, write) => write(oneSentence(text)),
      getOutHelpWidth: () => io.columns ?? 100,
      getErrHelpWidth: () => io.columns ?? 100,
    })
    .exitOverride()
    .enablePositionalOptions()
    .addHelpText(
      'after',
      `
Targets are typed: block:32-39, range:0x100000000-0x13fffffff, node:1, zone:1/Normal, dimm:0, size:4G.
Sources (--from): a file or a directory; host (this machine, as without); qemu:QMP_SOCKET,agent=SOCKET, libvirt:DOMAIN, proxmox:VMID.
Exit codes: 0 done; 1 failed; 2 usage, or an unreadable source; 3 not feasible; 4 unsupported; 5 refused; 64 in part; 124 deadline; 130 interrupted.
Only dimmer apply changes a machine; everything else never writes to /sys or /proc.

Examples:
  sudo dimmer check                  what could this machine give back?
  sudo dimmer explain block:34       why does this block stay?
  sudo dimmer capture -o host.dimmer save it, to look at it elsewhere: dimmer map --from host.dimmer`,
    );
  const exit = (n: number): void => {
    code = n;
  };
  const mount: typeof addCheck = (p, i, e) => addMount(p, i, e, openTree);
  for (const add of [
    addCheck,
    addExplain,
    addDoctor,
    addPlan,
    addApply,
    addMap,
    addLs,
    addTop,
    addCapture,
    addVerify,
    addSim,
    addPool,
    addShell,
    addExport,
    addDemo,
    mount,
    addCompletion,
  ])
    add(program, io, exit);
  for (const c of program.commands) c.exitOverride().copyInheritedSettings(program);
  try {
    if (argv.length === 0) {
      io.err(program.helpInformation());
      io.err('\nTry: dimmer check\n');
      return EXIT.USAGE;
    }
    program.parse(plainSummaries(argv), { from: 'user' });
    return code;
  } catch (e) {
    if (!(e instanceof CommanderError)) throw e;
    return e.exitCode === 0 ? EXIT.OK : EXIT.USAGE; // --help and --version end with 0
  }
}

/**
 * As in lsmem, `--summary` alone never takes the next word: `dimmer check --summary node:1` is about node 1. What stands
 * behind `--` is another program's.
 */
function plainSummaries(argv: readonly string[]): string[] {
  const end = argv.includes('--') ? argv.indexOf('--') : argv.length;
  return argv.map((word, k) => (word === '--summary' && k < end ? '--summary=only' : word));
}

/** "error: unknown option '--foo'\n(Did you mean --from?)" -> "dimmer: unknown option '--foo' (did you mean --from?)" */
const oneSentence = (text: string): string =>
  `dimmer: ${text
    .replace(/^error: /, '')
    .replace(/\s*\n\s*/g, ' ')
    .replace('(Did', '(did')
    .replace(/\.?\s*$/, '')}\n`;
