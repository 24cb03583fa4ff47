// npm runs this after `npm ci` and `npm install` in a clone, and before `npm pack`: the addon is built unless what lies in
// build/Release comes from these sources, compilers and options, and lib/ is compiled to dist/.
import { isDeepStrictEqual } from 'node:util'
import { built, fingerprint } from './native-options.mjs'

if (isDeepStrictEqual(built(), fingerprint())) console.log('the addon is up to date')
else await import('./build-native.mjs')
await import('./build-lib.mjs')
