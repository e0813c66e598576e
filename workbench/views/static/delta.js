/* A JSON value after a change: the same as `patch` in workbench/views/delta.py, where the format is described. */
window.KVW = window.KVW || {};
(function (KVW) {
  "use strict";

  /** UTF-16 units of the first `count` code points. */
  function unitsOf(text, count) {
    let at = 0;
    while (count-- > 0) at += text.codePointAt(at) > 0xffff ? 2 : 1;
    return at;
  }

  /** An own property, whatever its name: assigning to "__proto__" would do something else. */
  function put(object, key, value) {
    if (key === "__proto__") Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
    else object[key] = value;
  }

  function each(flat, visit) {
    for (let at = 0, index = 0; at < flat.length; at += 2) visit((index += flat[at]), flat[at + 1]);
  }

  /** `old` stays as it is; what did not change is shared with it. */
  KVW.patch = function patch(old, change) {
    if (change === 0) return old;
    if (Array.isArray(change)) return change[0];
    if (change.s) return old.slice(0, unitsOf(old, change.s[0])) + change.s[1];
    if (change.o || change.x) {
      const gone = new Set(change.x || []);
      const result = {};
      for (const key of Object.keys(old)) if (!gone.has(key)) put(result, key, old[key]);
      for (const key of Object.keys(change.o || {})) put(result, key, patch(Object.hasOwn(old, key) ? old[key] : undefined, change.o[key]));
      return result;
    }
    const array = old.slice(0, change.n ?? old.length);
    each(change.a || [], (index, value) => (array[index] = value));
    each(change.p || [], (index, part) => (array[index] = patch(array[index], part)));
    return change.t ? array.concat(change.t) : array;
  };
})(window.KVW);
