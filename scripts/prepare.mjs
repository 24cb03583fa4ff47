// npm runs this after `npm ci` and `npm install` in a clone, and before `npm pack`: the addon is built when what lies in
// build/Release does not come from these sources and options, and lib/ is compiled to dist/.
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { addon, fingerprint, products } from './native-options.mjs'

const stamp = path.join(products, 'stamp')
const current = existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint()
if (current) console.log('the addon is up to date')
else await import('./build-native.mjs')
await import('./build-lib.mjs')
