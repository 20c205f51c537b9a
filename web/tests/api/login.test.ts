import { afterEach, expect, it } from "vitest";
import { takeLoginToken } from "../../src/api/login";

afterEach(() => history.replaceState(null, "", "/"));

it("takes the token out of the address on any path", () => {
  /** The one-time token would stay in the history and on shared screens. */
  history.replaceState(null, "", "/c/cht_1?x=1#login=abc%2Fd");
  expect(takeLoginToken()).toBe("abc/d");
  expect(location.href).toMatch(/\/c\/cht_1\?x=1$/);
});

it("leaves other addresses alone", () => {
  /** Every fragment would be sent to the server as a login. */
  history.replaceState(null, "", "/#conversation");
  expect(takeLoginToken()).toBeNull();
  expect(location.hash).toBe("#conversation");
});
