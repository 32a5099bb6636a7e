// One case of the hotplug bench in one process: prints one JSON row. hotplug.mjs starts these; by hand:
//   node bench/hotplug-one.mjs "H3 single frames" [--quick]

import * as mm from '../dist/mm/index.js';
import { kernelTree } from '../dist/tree/index.js';
import { FULL, QUICK, runCase } from './hotplug-cases.mjs';

const sizes = process.argv.includes('--quick') ? QUICK : FULL;
console.log(JSON.stringify(runCase(process.argv[2], { ...mm, kernelTree }, sizes)));
